"""Execution of the layers of a model: unrolled or scanned, with recomputation.

Parameters of all layers are stacked on axis 0 of each leaf in either case, so a checkpoint does
not know which one made it. Axes: L layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
    """Inputs of every layer in one forward pass, in addition to its parameters and the carry.

    Attributes:
        context: pytree with leaves [B, ...] of the rows, or [1, ...] of all of them alike.
        dropout_key: from which each layer folds its own; None for no dropout.
    """

    context: Any
    dropout_key: jax.Array | None = None


# (parameters of one layer, context, carry, number of the layer, pattern_index) -> carry
ApplyLayer = Callable[[Any, ForwardContext, Carry, int | jax.Array, int], Carry]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerProgram(Generic[Carry]):
    """The layers of one forward pass: all that a `LayerStack` needs to run them.

    Attributes:
        apply_layer: one layer; `pattern_index`, layer % pattern_length, is a Python integer.
        params: pytree with leaves [L, ...].
        context: what all layers are given.
        num_layers: L.
        pattern_length: number of layers after which their settings repeat.
        remat: what the backward pass recomputes.
    """

    apply_layer: ApplyLayer[Carry]
    params: Any
    context: ForwardContext
    num_layers: int
    pattern_length: int
    remat: Remat

    def apply(
        self,
        params: Any,
        context: ForwardContext,
        carry: Carry,
        layer: int | jax.Array,
        pattern_index: int,
    ) -> Carry:
        """Apply one layer, whose backward pass recomputes what `remat` says."""

        def apply(params: Any, context: ForwardContext, carry: Carry) -> Carry:
            return self.apply_layer(params, context, carry, layer, pattern_index)

        return self.remat.wrap(apply)(params, context, carry)


@configclass
class LayerStack:
    """Base of the ways to run layers."""

    def row_multiple(self, mesh_sizes: Mapping[str, int]) -> int:
        """Return a number that must divide the rows of a batch on a mesh."""
        return 1

    def check(
        self, mesh_sizes: Mapping[str, int], num_rows: int, num_layers: int, pattern_length: int
    ) -> None:
        """Refuse a mesh that the layers cannot train on.

        Args:
            mesh_sizes: number of devices along each axis.
            num_rows: rows of a micro-batch, of all devices together.
            num_layers: number of layers of the model.
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
        """Return the time of all layers over that of their work: above 1 if devices wait."""
        return 1.0

    def run(self, program: LayerProgram[Carry], carry: Carry) -> Carry:
        """Apply layers 0 .. num_layers - 1 in turn, each to what the one before it returned."""
        raise NotImplementedError(f"{type(self).__name__} has no run")


@configclass
class Unrolled(LayerStack):
    """Each layer's code stands in the program: fastest to run, slowest to compile.

    Python runs once for all layers with one pattern_index: the layer is then a traced array.
    """

    def run(self, program: LayerProgram[Carry], carry: Carry) -> Carry:
        # Once for each layer it took most of a second for twelve. XLA puts the code where the calls
        # are.
        apply = jax.jit(program.apply, static_argnames="pattern_index")
        for layer, params in enumerate(_unstack(program.params, program.num_layers)):
            pattern_index = layer % program.pattern_length
            number = jax.numpy.int32(layer)
            carry = apply(params, program.context, carry, number, pattern_index=pattern_index)
        return carry


@configclass
class UnrolledPython(LayerStack):
    """Unrolled, with each layer traced on its own: its number is a Python integer."""

    def run(self, program: LayerProgram[Carry], carry: Carry) -> Carry:
        for layer, params in enumerate(_unstack(program.params, program.num_layers)):
            pattern_index = layer % program.pattern_length
            carry = program.apply(params, program.context, carry, layer, pattern_index)
        return carry


@configclass
class Scanned(LayerStack):
    """The layers are a loop: one pattern of layers is compiled, whatever their number."""

    unroll: int = 1
    """Iterations of the loop that are unrolled into one."""

    def __post_init__(self) -> None:
        if self.unroll < 1:
            raise ValueError(f"unroll must be at least 1, not {self.unroll}")

    def run(self, program: LayerProgram[Carry], carry: Carry) -> Carry:
        """Loop over the whole patterns; layers that do not fill one follow the loop."""
        pattern_length = program.pattern_length
        num_rounds = program.num_layers // pattern_length
        looped = num_rounds * pattern_length
        rounds = jax.tree.map(
            lambda leaf: leaf[:looped].reshape(num_rounds, pattern_length, *leaf.shape[1:]),
            program.params,
        )

        def run_round(carry: Carry, step: tuple[jax.Array, Any]) -> tuple[Carry, None]:
            index, round_params = step
            for pattern_index, params in enumerate(_unstack(round_params, pattern_length)):
                layer = index * pattern_length + pattern_index
                carry = program.apply(params, program.context, carry, layer, pattern_index)
            return carry, None

        if num_rounds:
            steps = (jax.numpy.arange(num_rounds), rounds)
            carry, _ = jax.lax.scan(run_round, carry, steps, unroll=self.unroll)
        rest = jax.tree.map(lambda leaf: leaf[looped:], program.params)
        for pattern_index, params in enumerate(_unstack(rest, program.num_layers - looped)):
            layer = looped + pattern_index
            carry = program.apply(params, program.context, carry, layer, pattern_index)
        return carry


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
