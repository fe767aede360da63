"""How the layers of a model run one after another: unrolled or scanned, with what recomputation.

Parameters of all layers are stacked on axis 0 of each leaf in either case, so a checkpoint does
not know which one made it. Axes: L layers.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.struct
import jax

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.model.remat import Remat

Carry = TypeVar("Carry")
# The mesh axis whose devices hold different layers.
PIPELINE = "pipeline"


@flax.struct.dataclass
class ForwardContext:
    """What every layer of one forward pass is given beside its parameters and the carry.

    Attributes:
        context: pytree with leaves [B, ...] of the rows, or [1, ...] of all of them alike.
        dropout_key: from which each layer folds its own; None for no dropout.
    """

    context: Any
    dropout_key: jax.Array | None = None


# (parameters of one layer, shared, carry, number of the layer, pattern_index) -> carry
ApplyLayer = Callable[[Any, ForwardContext, Carry, int | jax.Array, int], Carry]


@configclass
class LayerStack:
    """Base of the ways to run layers."""

    def row_multiple(self, mesh_sizes: Mapping[str, int]) -> int:
        """The number of rows that a batch must have, or a multiple of it, to run on a mesh."""
        return 1

    def check(
        self, mesh_sizes: Mapping[str, int], num_rows: int, num_layers: int, pattern_length: int
    ) -> None:
        """Refuse a mesh that the layers cannot train on.

        Args:
            mesh_sizes: number of devices along each axis.
            num_rows: rows of a micro-batch, of all devices together.
            num_layers: of the model.
            pattern_length: number of layers after which their settings repeat.

        Raises:
            ConfigError: names what to change.
        """
        if mesh_sizes[PIPELINE] > 1:
            raise ConfigError(
                f"mesh.pipeline={mesh_sizes[PIPELINE]} puts layers on different devices, and "
                f"model.layers={type(self).__name__}() would fetch them all to each; use "
                f"Pipelined (--model.layers Pipelined), or mesh.pipeline=1"
            )

    def stretch(self, mesh_sizes: Mapping[str, int]) -> float:
        """How much longer than their work all layers take, for devices that wait for others."""
        return 1.0

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: ForwardContext,
        carry: Carry,
        num_layers: int,
        pattern_length: int,
        remat: Remat,
    ) -> Carry:
        """Apply layers 0 .. num_layers - 1 in turn.

        Args:
            apply_layer: one layer; `pattern_index`, layer % pattern_length, is a Python integer.
            params: pytree with leaves [L, ...].
            shared: what all layers are given.
            carry: what a layer receives and returns.
            num_layers: L.
            pattern_length: number of layers after which their settings repeat.
            remat: what the backward pass recomputes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run")


@configclass
class Unrolled(LayerStack):
    """Each layer's code stands in the program: fastest to run, slowest to compile.

    Python runs once for all layers with one pattern_index: the layer is then a traced array.
    """

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: ForwardContext,
        carry: Carry,
        num_layers: int,
        pattern_length: int,
        remat: Remat,
    ) -> Carry:
        """See `LayerStack.run`."""

        def apply(
            params: Any, shared: ForwardContext, carry: Carry, layer: jax.Array, pattern_index: int
        ) -> Carry:
            return _rematerialised(apply_layer, layer, pattern_index, remat)(params, shared, carry)

        # Once for each layer it took most of a second for twelve. XLA puts the code where the calls
        # are.
        apply = jax.jit(apply, static_argnames="pattern_index")
        for layer, layer_params in enumerate(_unstack(params, num_layers)):
            number = jax.numpy.int32(layer)
            carry = apply(layer_params, shared, carry, number, pattern_index=layer % pattern_length)
        return carry


@configclass
class UnrolledPython(LayerStack):
    """Unrolled, with each layer traced on its own: its number is a Python integer."""

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: ForwardContext,
        carry: Carry,
        num_layers: int,
        pattern_length: int,
        remat: Remat,
    ) -> Carry:
        """See `LayerStack.run`."""
        for layer, layer_params in enumerate(_unstack(params, num_layers)):
            carry = _rematerialised(apply_layer, layer, layer % pattern_length, remat)(
                layer_params, shared, carry
            )
        return carry


@configclass
class Scanned(LayerStack):
    """The layers are a loop: one pattern of layers is compiled, whatever their number."""

    unroll: int = 1
    """Iterations of the loop that are unrolled into one."""

    def __post_init__(self) -> None:
        if self.unroll < 1:
            raise ValueError(f"unroll must be at least 1, not {self.unroll}")

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: ForwardContext,
        carry: Carry,
        num_layers: int,
        pattern_length: int,
        remat: Remat,
    ) -> Carry:
        """See `LayerStack.run`; layers that do not fill a whole pattern follow the loop."""
        num_rounds = num_layers // pattern_length
        looped = num_rounds * pattern_length
        rounds = jax.tree.map(
            lambda leaf: leaf[:looped].reshape(num_rounds, pattern_length, *leaf.shape[1:]), params
        )

        def run_round(carry: Carry, step: tuple[jax.Array, Any]) -> tuple[Carry, None]:
            index, round_params = step
            for pattern_index, layer_params in enumerate(_unstack(round_params, pattern_length)):
                layer = index * pattern_length + pattern_index
                carry = _rematerialised(apply_layer, layer, pattern_index, remat)(
                    layer_params, shared, carry
                )
            return carry, None

        if num_rounds:
            steps = (jax.numpy.arange(num_rounds), rounds)
            carry, _ = jax.lax.scan(run_round, carry, steps, unroll=self.unroll)
        rest = jax.tree.map(lambda leaf: leaf[looped:], params)
        for pattern_index, layer_params in enumerate(_unstack(rest, num_layers - looped)):
            carry = _rematerialised(apply_layer, looped + pattern_index, pattern_index, remat)(
                layer_params, shared, carry
            )
        return carry


def _rematerialised(
    apply_layer: ApplyLayer[Carry], layer: int | jax.Array, pattern_index: int, remat: Remat
) -> Callable[[Any, ForwardContext, Carry], Carry]:
    return remat.wrap(
        lambda params, shared, carry: apply_layer(params, shared, carry, layer, pattern_index)
    )


def _unstack(params: Any, num_layers: int) -> list[Any]:
    """Split leaves [L, ...] into L trees.

    The gradient of `lax.split` is one concatenation; that of indexing would be L zero-padded
    copies of every leaf, added up.
    """
    if num_layers == 0:
        return []
    leaves, structure = jax.tree.flatten(params)
    by_leaf = [
        [piece.reshape(piece.shape[1:]) for piece in jax.lax.split(leaf, [1] * num_layers)]
        for leaf in leaves
    ]
    return [structure.unflatten(pieces) for pieces in zip(*by_leaf, strict=True)]
