"""Places of our parameters in a published model, and the way from one to the other and back.

Our layers are stacked on axis 0 and keep the axes of heads; a linear layer of PyTorch is
[outputs, inputs], both flattened. Heads have the same order on both sides, and rotary planes pair
the same elements, so nothing is permuted.

Axes: L layers, I inputs, O outputs, V vocabulary, D model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from jaxgpt.errors import MismatchError

Shape = tuple[int, ...]
Weights = Mapping[str, np.ndarray]

# Axis of the vocabulary, which we round up and they do not.
_VOCAB_AXIS = {"embedding/table": 0, "head/kernel": 1}
# Buffers that older versions of transformers saved among the weights.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree of parameters by path, `blocks/attention/query/kernel`."""
    return flatten_dict(tree, sep="/")


class Form(NamedTuple):
    """Layout of one parameter on their side.

    Attributes:
        to_theirs: from our array of a layer to theirs.
        to_ours: from their array and the shape of ours to ours.
    """

    to_theirs: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray, Shape], np.ndarray]


def _flat(num_inputs: int) -> Callable[[np.ndarray], np.ndarray]:
    def flatten(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(int(np.prod(kernel.shape[:num_inputs])), -1)

    return flatten


def _reshape(weight: np.ndarray, shape: Shape) -> np.ndarray:
    return weight.reshape(shape)


def linear(num_inputs: int = 1) -> Form:
    """Return the form [O, I] of a kernel with so few axes of inputs."""
    flatten = _flat(num_inputs)
    return Form(lambda kernel: flatten(kernel).T, lambda weight, shape: weight.T.reshape(shape))


def conv1d(num_inputs: int = 1) -> Form:
    """Return the form [I, O] that GPT-2 has."""
    return Form(_flat(num_inputs), _reshape)


# Norms and biases: heads, if any, side by side.
VECTOR = Form(lambda weight: weight.reshape(-1), _reshape)
TABLE = Form(lambda weight: weight, _reshape)


class Place(NamedTuple):
    """A published weight, and our parameters that are in it, side by side on the last axis.

    Attributes:
        theirs: its name, with `*` for the number of the layer.
        ours: paths of our parameters.
        form: layout of each.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form


def place(theirs: str, *ours: str, form: Form) -> Place:
    """Return a `Place`."""
    return Place(theirs, ours, form)


Table = tuple[Place, ...]


def to_theirs(
    table: Table, params: Weights, shapes: Mapping[str, Shape], vocab_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the array of each published weight; views, where that is possible.

    Args:
        table: of the architecture.
        params: our parameters by path.
        shapes: those that the architecture has; a bias that we lack is 0.
        vocab_size: rows and columns from here on only pad the vocabulary, and are cut off.
    """
    for item in _present(table, shapes):
        parts = [_cut(path, params, shapes, vocab_size) for path in item.ours]
        if "*" not in item.theirs:
            yield item.theirs, _join([item.form.to_theirs(part) for part in parts])
            continue
        for layer in range(len(parts[0])):
            arrays = [item.form.to_theirs(part[layer]) for part in parts]
            yield item.theirs.replace("*", str(layer)), _join(arrays)


def to_ours(
    table: Table,
    names: set[str],
    read: Callable[[str], np.ndarray],
    shapes: Mapping[str, Shape],
) -> dict[str, np.ndarray]:
    """Return our parameters by path.

    Args:
        table: of the architecture.
        names: all published weights.
        read: returns a weight by its name.
        shapes: those of our parameters.

    Raises:
        MismatchError: a weight is missing, has another shape, or belongs to no parameter.
    """
    # Files of a bare decoder lack the first part of each name.
    prefix = table[0].theirs.partition(".")[0] + "."
    prefix = "" if any(name.startswith(prefix) for name in names) else prefix
    used: set[str] = set()

    def take(name: str) -> np.ndarray:
        name = name.removeprefix(prefix)
        if name not in names:
            raise MismatchError(f"the weights lack {name}, which the config asks for")
        used.add(name)
        return read(name)

    ours = {}
    for item in _present(table, shapes):
        shape = shapes[item.ours[0]]
        layers = [take(item.theirs)] if "*" not in item.theirs else [
            take(item.theirs.replace("*", str(layer))) for layer in range(shape[0])
        ]  # fmt: skip
        for index, path in enumerate(item.ours):
            parts = [np.split(layer, len(item.ours), -1)[index] for layer in layers]
            stacked = [_form_to_ours(item, path, part, shapes[path]) for part in parts]
            ours[path] = np.stack(stacked) if "*" in item.theirs else stacked[0]
    _check_rest(names - used, read, ours)
    return ours


def _present(table: Table, shapes: Mapping[str, Shape]) -> Iterator[Place]:
    """Yield the places that a model has: a tied head, for one, has none."""
    placed = {path for item in table for path in item.ours}
    if left := sorted(shapes.keys() - placed):
        raise MismatchError(f"parameters without a place in the published model: {left}")
    return (item for item in table if item.ours[0] in shapes)


def _cut(path: str, params: Weights, shapes: Mapping[str, Shape], vocab_size: int) -> np.ndarray:
    if path not in params:
        return np.zeros(shapes[path], np.float32)
    if path not in _VOCAB_AXIS:
        return params[path]
    return params[path][:vocab_size] if not _VOCAB_AXIS[path] else params[path][:, :vocab_size]


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def _form_to_ours(item: Place, path: str, weight: np.ndarray, shape: Shape) -> np.ndarray:
    """Return our array of a layer; the vocabulary is cut or filled up with zeros."""
    shape = shape[1:] if "*" in item.theirs else shape
    axis = _VOCAB_AXIS.get(path)
    try:
        if axis is None:
            return item.form.to_ours(weight, shape)
        # Both forms of a vocabulary have its ids first.
        missing = max(0, shape[axis] - len(weight))
        weight = np.pad(weight[: shape[axis]], ((0, missing), (0, 0)))
        return item.form.to_ours(weight, shape)
    except ValueError:
        raise MismatchError(
            f"the weight {item.theirs} has the shape {weight.shape}, which does not fit the "
            f"shape {shape} of {path}; the config is of another model"
        ) from None


def _check_rest(names: set[str], read: Callable[[str], np.ndarray], ours: Weights) -> None:
    """Refuse weights that no parameter has taken, but for buffers and a head that is tied."""
    names = {name for name in names if not name.endswith(_BUFFERS)}
    table = ours["embedding/table"]
    if "lm_head.weight" in names and "head/kernel" not in ours:
        head = read("lm_head.weight")[: len(table)]
        if not np.array_equal(head, table[: len(head)]):
            raise MismatchError(
                "the config ties the head to the embedding, but lm_head.weight is not the "
                "embedding; set tie_word_embeddings to false in config.json"
            )
        names.discard("lm_head.weight")
    if names:
        raise MismatchError(
            f"{len(names)} weights have no place in the model, such as {min(names)}; the config is "
            "of another model"
        )
