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
class Shared:
    """What every layer of one forward pass is given beside its parameters and the carry.

    Attributes:
        context: pytree with leaves [B, ...] of the rows, or [1, ...] of all of them alike.
        dropout_key: from which each layer folds its own; None for no dropout.
    """

    context: Any
    dropout_key: jax.Array | None = None


# (parameters of one layer, shared, carry, number of the layer, kind of the layer) -> carry
ApplyLayer = Callable[[Any, Shared, Carry, int | jax.Array, int], Carry]


@configclass
class LayerStack:
    """Base of the ways to run layers."""

    def row_multiple(self, mesh_sizes: Mapping[str, int]) -> int:
        """The number of rows that a batch must have, or a multiple of it, to run on a mesh."""
        return 1

    def check(
        self, mesh_sizes: Mapping[str, int], num_rows: int, num_layers: int, num_kinds: int
    ) -> None:
        """Refuse a mesh that the layers cannot train on.

        Args:
            mesh_sizes: number of devices along each axis.
            num_rows: rows of a micro-batch, of all devices together.
            num_layers: of the model.
            num_kinds: length of the pattern of layers.

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
        shared: Shared,
        carry: Carry,
        num_layers: int,
        num_kinds: int,
        remat: Remat,
    ) -> Carry:
        """Apply layers 0 .. num_layers - 1 in turn.

        Args:
            apply_layer: one layer; its kind, `layer % num_kinds`, is always a Python integer.
            params: pytree with leaves [L, ...].
            shared: what all layers are given.
            carry: what a layer receives and returns.
            num_layers: L.
            num_kinds: length of the pattern of layers.
            remat: what the backward pass recomputes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run")


@configclass
class Unrolled(LayerStack):
    """Each layer's code stands in the program: fastest to run, slowest to compile.

    Python runs once for all layers of a kind, so that their number may be a traced array.
    """

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: Shared,
        carry: Carry,
        num_layers: int,
        num_kinds: int,
        remat: Remat,
    ) -> Carry:
        """See `LayerStack.run`."""

        def apply(params: Any, shared: Shared, carry: Carry, layer: jax.Array, kind: int) -> Carry:
            return _rematerialised(apply_layer, layer, kind, remat)(params, shared, carry)

        # Once for each layer it took most of a second for twelve. XLA puts the code where the calls
        # are.
        apply = jax.jit(apply, static_argnames="kind")
        for layer, layer_params in enumerate(_unstack(params, num_layers)):
            number = jax.numpy.int32(layer)
            carry = apply(layer_params, shared, carry, number, kind=layer % num_kinds)
        return carry


@configclass
class UnrolledPython(LayerStack):
    """Unrolled, with each layer traced on its own: its number is a Python integer."""

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: Shared,
        carry: Carry,
        num_layers: int,
        num_kinds: int,
        remat: Remat,
    ) -> Carry:
        """See `LayerStack.run`."""
        for layer, layer_params in enumerate(_unstack(params, num_layers)):
            carry = _rematerialised(apply_layer, layer, layer % num_kinds, remat)(
                layer_params, shared, carry
            )
        return carry


@configclass
class Scanned(LayerStack):
    """The layers are a loop: one pattern of layers is compiled, whatever their number."""

    unroll: int = 1
    """Rounds of the loop that are compiled as one."""

    def __post_init__(self) -> None:
        if self.unroll < 1:
            raise ValueError(f"unroll must be at least 1, not {self.unroll}")

    def run(
        self,
        apply_layer: ApplyLayer[Carry],
        params: Any,
        shared: Shared,
        carry: Carry,
        num_layers: int,
        num_kinds: int,
        remat: Remat,
    ) -> Carry:
        """See `LayerStack.run`; layers that do not fill a whole pattern follow the loop."""
        num_rounds = num_layers // num_kinds
        looped = num_rounds * num_kinds
        rounds = jax.tree.map(
            lambda leaf: leaf[:looped].reshape(num_rounds, num_kinds, *leaf.shape[1:]), params
        )

        def run_round(carry: Carry, step: tuple[jax.Array, Any]) -> tuple[Carry, None]:
            index, round_params = step
            for kind, layer_params in enumerate(_unstack(round_params, num_kinds)):
                layer = index * num_kinds + kind
                carry = _rematerialised(apply_layer, layer, kind, remat)(
                    layer_params, shared, carry
                )
            return carry, None

        if num_rounds:
            steps = (jax.numpy.arange(num_rounds), rounds)
            carry, _ = jax.lax.scan(run_round, carry, steps, unroll=self.unroll)
        rest = jax.tree.map(lambda leaf: leaf[looped:], params)
        for kind, layer_params in enumerate(_unstack(rest, num_layers - looped)):
            carry = _rematerialised(apply_layer, looped + kind, kind, remat)(
                layer_params, shared, carry
            )
        return carry


def _rematerialised(
    apply_layer: ApplyLayer[Carry], layer: int | jax.Array, kind: int, remat: Remat
) -> Callable[[Any, Shared, Carry], Carry]:
    return remat.wrap(lambda params, shared, carry: apply_layer(params, shared, carry, layer, kind))


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
