"""Adapters as PEFT keeps them: the content of adapter_config.json and adapter_model.safetensors.

A base that was exported for transformers has names for its layers, which the caller gives:
`{"attention/query": "model.layers.{layer}.self_attn.q_proj", ...}`. A linear layer there is
[outputs, inputs], with the axes of heads flattened. NumPy only; the files are the caller's.

Axes: L layers, I inputs and O outputs of a projection, R rank.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import ConfigError, MismatchError
from jaxgpt.model.layers.adapters import LORA_A, LORA_B, MAGNITUDE_CHANGE, Dora, Lora, LowRank

_PREFIX = "base_model.model."
_SUFFIXES = {
    LORA_A: "lora_A.weight",
    LORA_B: "lora_B.weight",
    MAGNITUDE_CHANGE: "lora_magnitude_vector",
}
# Fields of adapter_config.json with another meaning than what is built here, and their plain value.
_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
    "lora_bias": False,
    "target_parameters": None,
}


class PeftAdapter(NamedTuple):
    """An adapter in PEFT's form.

    Attributes:
        config: content of adapter_config.json.
        tensors: content of adapter_model.safetensors, float32.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]


def to_peft(
    adapter: LowRank, own: Any, kernels: Any, names: Mapping[str, str], base: str
) -> PeftAdapter:
    """Convert a trained adapter.

    Args:
        adapter: its settings.
        own: its parameters below `blocks`, [L, ...] each.
        kernels: the base's parameters below `blocks`, from which DoRA measures lengths.
        names: layers of the exported base by projection.
        base: where the exported base is: a folder, or its name on the Hub.

    Raises:
        ConfigError: a projection has no name in the exported base.
    """
    tensors, adapted = {}, set()
    for projection, leaves in _projections(own):
        if projection not in names:
            raise ConfigError(
                f"the exported base has no layer for the projection {projection}; those that have "
                f"one are {', '.join(sorted(names))}"
            )
        adapted.add(names[projection])
        kernel = _at(kernels, projection)["kernel"]
        for layer in range(len(leaves[LORA_A])):
            place = _PREFIX + names[projection].format(layer=layer)
            for key, leaf in leaves.items():
                value = np.asarray(leaf[layer], np.float32)
                if key == MAGNITUDE_CHANGE:
                    value = (value + _lengths(kernel[layer], value.ndim)).reshape(-1)
                else:
                    value = _flatten(value, key).T
                tensors[f"{place}.{_SUFFIXES[key]}"] = np.ascontiguousarray(value)
    return PeftAdapter(_config(adapter, adapted, names, base), tensors)


def with_token_rows(
    peft: PeftAdapter, ids: tuple[int, ...], rows: Mapping[str, np.ndarray]
) -> PeftAdapter:
    """Return an adapter that also trains rows of tokens, which PEFT keeps whole and not as changes.

    Args:
        peft: the adapter without them.
        ids: ids of the tokens.
        rows: their rows after training [K, D], by layer of the exported base.
    """
    if not rows:
        return peft
    indices = {"trainable_token_indices": {_end(name, 1): list(ids) for name in rows}}
    tensors = {
        f"{_PREFIX}{name}.token_adapter.trainable_tokens_delta": np.asarray(values, np.float32)
        for name, values in rows.items()
    }
    return PeftAdapter(peft.config | indices, peft.tensors | tensors)


def from_peft(
    peft: PeftAdapter, kernels: Any, names: Mapping[str, str]
) -> tuple[LowRank, dict[str, Any]]:
    """Undo `to_peft`: return the adapter, and its parameters below `blocks`.

    Args:
        peft: the content of both files.
        kernels: see `to_peft`; also gives the shapes.
        names: see `to_peft`.

    Raises:
        MismatchError: it is no plain LoRA, trains rows of tokens, adapts other layers than `names`
            has, or only some of the layers of a projection, or its shapes are not those of the
            base.
    """
    _refuse_special(peft.config)
    has_magnitude = bool(peft.config.get("use_dora"))
    left, own = dict(peft.tensors), {}
    for projection, name in names.items():
        kernel = np.asarray(_at(kernels, projection)["kernel"], np.float32)
        places = [_PREFIX + name.format(layer=layer) for layer in range(len(kernel))]
        if f"{places[0]}.{_SUFFIXES[LORA_A]}" not in left:
            continue
        try:
            leaves = _read_projection(left, places, kernel, has_magnitude)
        except (KeyError, ValueError) as error:
            raise MismatchError(
                f"the adapter of {name} is not of this base: {error}; every layer needs arrays for "
                f"a kernel of the shape {kernel.shape[1:]}"
            ) from None
        parent, _, last = projection.rpartition("/")
        own.setdefault(parent, {})[last] = leaves
    if left:
        raise MismatchError(
            f"the adapter has {len(left)} arrays that the base has no layer for, such as "
            f"{min(left)}; layers that it may adapt are {', '.join(sorted(names.values()))}"
        )
    kind = Dora if has_magnitude else Lora
    adapter = kind(
        rank=int(peft.config["r"]),
        alpha=float(peft.config["lora_alpha"]),
        rank_stabilized=bool(peft.config.get("use_rslora")),
        dropout=float(peft.config.get("lora_dropout", 0.0)),
        targets=tuple(sorted(last for part in own.values() for last in part)),
    )
    return adapter, own


def _read_projection(
    left: dict[str, np.ndarray], places: list[str], kernel: np.ndarray, has_magnitude: bool
) -> dict[str, np.ndarray]:
    """Take the arrays of one projection out of `left`, [L, ...] each."""
    a = np.stack([left.pop(f"{place}.{_SUFFIXES[LORA_A]}").T for place in places])
    b = np.stack([left.pop(f"{place}.{_SUFFIXES[LORA_B]}").T for place in places])
    shape, rank, num_inputs = kernel.shape[1:], a.shape[-1], 0
    while np.prod(shape[:num_inputs], dtype=int) < a.shape[1]:
        num_inputs += 1
    leaves = {
        LORA_A: a.reshape(len(places), *shape[:num_inputs], rank),
        LORA_B: b.reshape(len(places), rank, *shape[num_inputs:]),
    }
    if has_magnitude:
        key = _SUFFIXES[MAGNITUDE_CHANGE]
        magnitudes = [left.pop(f"{place}.{key}").reshape(shape[num_inputs:]) for place in places]
        lengths = [_lengths(each, len(shape) - num_inputs) for each in kernel]
        leaves[MAGNITUDE_CHANGE] = np.stack(magnitudes) - np.stack(lengths)
    return leaves


def _config(
    adapter: LowRank, adapted: set[str], names: Mapping[str, str], base: str
) -> dict[str, Any]:
    """Return adapter_config.json; layers are named by as little as tells them apart."""
    others = {_end(name, 1) for name in names.values() if name not in adapted}
    targets = {_end(name, 2 if _end(name, 1) in others else 1) for name in adapted}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted(targets),
        "use_rslora": adapter.rank_stabilized,
        "use_dora": isinstance(adapter, Dora),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _refuse_special(config: Mapping[str, Any]) -> None:
    if rows := config.get("trainable_token_indices"):
        # Ours are changes to the base's rows: a sum that was rounded does not give them back.
        raise MismatchError(
            f"adapter_config.json has trainable_token_indices={rows!r}: PEFT keeps these rows "
            "whole, and the changes to the base's rows do not come back to the last bit; merge the "
            "adapter into its base with PEFT, and import the merged folder"
        )
    for key, plain in _PLAIN.items():
        value = config.get(key, plain)
        if value != plain and (value or plain):
            raise MismatchError(
                f"adapter_config.json has {key}={value!r}; adapters are read with {key}={plain!r}"
            )


def _end(name: str, num_parts: int) -> str:
    return ".".join(name.split(".")[-num_parts:])


def _projections(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the leaves of each adapted projection."""
    if LORA_A in tree:
        yield path, tree
        return
    for key, value in tree.items():
        yield from _projections(value, f"{path}/{key}" if path else key)


def _at(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _flatten(value: np.ndarray, key: str) -> np.ndarray:
    """Return A as [I, R], B as [R, O]."""
    rank = value.shape[-1] if key == LORA_A else value.shape[0]
    return value.reshape(-1, rank) if key == LORA_A else value.reshape(rank, -1)


def _lengths(kernel: Any, num_outputs: int) -> np.ndarray:
    """Return the length of each output's weights, [O...]."""
    kernel = np.asarray(kernel, np.float32)
    return np.sqrt(np.sum(np.square(kernel), tuple(range(kernel.ndim - num_outputs))))
