"""`Pipelined`: the layers divided into stages on different devices, micro-batches passing through.

The schedule of GPipe (Huang et al. 2019, arXiv:1811.06965): in each tick every stage works on
another micro-batch and hands its result on, and the backward pass, derived from the forward one,
runs the ticks in reverse. With S stages and M micro-batches S - 1 of M + S - 1 ticks are the
bubble, in which a stage has nothing to do:

    tick      0   1   2   3   4         M = 4, S = 2
    stage 0  m0  m1  m2  m3   -
    stage 1   -  m0  m1  m2  m3

Axes: B rows, M micro-batches, S stages, L layers; ... any.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.model.layer_stack import (
    PIPELINE,
    Carry,
    ForwardContext,
    LayerProgram,
    LayerStack,
    Scanned,
)


@configclass
class Pipelined(LayerStack):
    """Each device along the mesh axis `pipeline` holds and runs an equal share of the layers.

    Where that axis has one device, and where a cache is carried, the layers run as `stage` says,
    one after another. The mean over micro-batches is the same as over the whole batch; dropout
    masks are others.
    """

    num_micro_batches: int = 8
    """Number of micro-batches that pass through the stages; more make the bubble smaller."""
    stage: LayerStack = Scanned()
    """Layer stack within each stage."""

    def __post_init__(self) -> None:
        if self.num_micro_batches < 1:
            raise ValueError(f"num_micro_batches must be at least 1, not {self.num_micro_batches}")
        if isinstance(self.stage, Pipelined):
            raise ValueError("stage must be another way to run layers, not Pipelined again")

    def run(self, program: LayerProgram[Carry], carry: Carry) -> Carry:
        """Pass micro-batches through the stages; leaves of the carry are [B, ...], B = M * any.

        Raises:
            ConfigError: the layers do not divide into stages.
        """
        num_stages = jax.sharding.get_abstract_mesh().shape.get(PIPELINE, 1)
        if num_stages == 1:
            return self.stage.run(program, carry)
        num_rows = jax.tree.leaves(carry)[0].shape[0]
        _check_stages(program.num_layers, num_stages, program.pattern_length)
        context_M = ForwardContext(
            _split(program.context.context, num_rows, self.num_micro_batches),
            program.context.dropout_key,
        )
        carry_M = _split(carry, num_rows, self.num_micro_batches)
        results_SM = jax.shard_map(
            functools.partial(self._run_ticks, program, num_stages),
            in_specs=PartitionSpec(PIPELINE),
            out_specs=PartitionSpec(PIPELINE),
            axis_names={PIPELINE},
        )(
            program.params,
            _for_each_stage(context_M, num_stages),
            _for_each_stage(carry_M, num_stages),
        )
        return _join(_of_last_stage(results_SM, num_stages))

    def _run_ticks(
        self,
        program: LayerProgram[Carry],
        num_stages: int,
        params: Any,
        context_1M: ForwardContext,
        carry_1M: Carry,
    ) -> Carry:
        """Run one stage on every micro-batch as it arrives; return the last stage's results.

        Only the mesh axis of the stages is handled here; XLA keeps splitting the others.
        """
        stage = jax.lax.axis_index(PIPELINE)
        context_M, carry_M = jax.tree.map(lambda leaf_1: leaf_1[0], (context_1M, carry_1M))

        def tick(received: Carry, time: jax.Array) -> tuple[Carry, Carry]:
            # In the bubble a stage repeats a micro-batch, and nobody uses the result.
            number = jnp.clip(time - stage, 0, self.num_micro_batches - 1)
            inputs = jax.tree.map(
                lambda new_M, old: jnp.where(stage == 0, new_M[number], old), carry_M, received
            )
            context = _of_micro_batch(context_M, number)
            layers = _layers_of_stage(program, stage, num_stages, params, context)
            result = self.stage.run(layers, inputs)
            return _hand_on(result, PIPELINE, num_stages), result

        first = jax.tree.map(lambda leaf_M: leaf_M[0], carry_M)
        times = jnp.arange(self.num_micro_batches + num_stages - 1)
        _, results = jax.lax.scan(tick, first, times)
        return jax.tree.map(lambda leaf: leaf[None, num_stages - 1 :], results)

    def row_multiple(self, mesh_sizes: Mapping[str, int]) -> int:
        """Return micro-batches times the devices of a stage that share a micro-batch."""
        return 1 if mesh_sizes[PIPELINE] == 1 else self.num_micro_batches * _shards(mesh_sizes)

    def stretch(self, mesh_sizes: Mapping[str, int]) -> float:
        """Return the ticks of a pass over those of its micro-batches."""
        return 1 + (mesh_sizes[PIPELINE] - 1) / self.num_micro_batches

    def check(
        self, mesh_sizes: Mapping[str, int], num_rows: int, num_layers: int, pattern_length: int
    ) -> None:
        """Refuse layers that do not divide into stages, and rows that do not into micro-batches."""
        if mesh_sizes[PIPELINE] == 1:
            return
        _check_stages(num_layers, mesh_sizes[PIPELINE], pattern_length)
        if num_rows % self.row_multiple(mesh_sizes):
            raise ConfigError(
                f"{num_rows} rows do not divide into model.layers.num_micro_batches="
                f"{self.num_micro_batches} parts for {_shards(mesh_sizes)} devices each; make "
                f"batch.global_batch_size / batch.num_micro_batches a multiple of "
                f"{self.row_multiple(mesh_sizes)}"
            )


def _shards(mesh_sizes: Mapping[str, int]) -> int:
    """Return devices that share the rows of a micro-batch within a stage."""
    return mesh_sizes["data"] * mesh_sizes["fsdp"] * mesh_sizes["expert"]


def _check_stages(num_layers: int, num_stages: int, pattern_length: int) -> None:
    if num_layers % (num_stages * pattern_length):
        raise ConfigError(
            f"{num_layers} layers in patterns of {pattern_length} do not divide into {num_stages} "
            f"equal stages; make model.num_layers a multiple of {num_stages * pattern_length}, or "
            f"change mesh.pipeline"
        )


def _layers_of_stage(
    program: LayerProgram[Carry],
    stage: jax.Array,
    num_stages: int,
    params: Any,
    context: ForwardContext,
) -> LayerProgram[Carry]:
    """Return the program of a stage's own layers, which are numbered from 0 in it."""
    num_layers = program.num_layers // num_stages
    first = stage * num_layers

    def apply_layer(
        params: Any, context: ForwardContext, carry: Carry, layer: int | jax.Array, index: int
    ) -> Carry:
        return program.apply_layer(params, context, carry, first + layer, index)

    return dataclasses.replace(
        program, apply_layer=apply_layer, params=params, context=context, num_layers=num_layers
    )


def _split(rows: Any, num_rows: int, num_micro_batches: int) -> Any:
    """Reshape leaves [B, ...] to [M, B / M, ...], leaves [1, ...] to [M, 1, ...].

    Micro-batch m takes rows m, m + M, m + 2M, ...: each device keeps the rows it has.
    """

    def split(leaf: jax.Array) -> jax.Array:
        if leaf.shape[0] != num_rows:
            return jnp.broadcast_to(leaf, (num_micro_batches, *leaf.shape))
        return jnp.swapaxes(leaf.reshape(-1, num_micro_batches, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, rows)


def _join(rows_M: Any) -> Any:
    """Undo `_split` for leaves of rows."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), rows_M)


def _of_micro_batch(context_M: ForwardContext, number: jax.Array) -> ForwardContext:
    key = context_M.dropout_key
    return ForwardContext(
        context=jax.tree.map(lambda leaf_M: leaf_M[number], context_M.context),
        dropout_key=None if key is None else jax.random.fold_in(key, number),
    )


def _hand_on(carry: Any, axis: str, num_stages: int) -> Any:
    """Give every stage the result of the one before it."""
    ring = [(stage, (stage + 1) % num_stages) for stage in range(num_stages)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis, ring), carry)


def _for_each_stage(tree: Any, num_stages: int) -> Any:
    """Repeat leaves [...] to [S, ...]: XLA then sums their gradients, in any dtype."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_stages, *leaf.shape)), tree)


def _of_last_stage(results_S: Any, num_stages: int) -> Any:
    """Return the last stage's part of leaves [S, ...]; a sum, so that only this part is moved."""

    def pick(leaf_S: jax.Array) -> jax.Array:
        is_last_S = jnp.arange(num_stages).reshape(-1, *[1] * (leaf_S.ndim - 1)) == num_stages - 1
        return jnp.sum(jnp.where(is_last_S, leaf_S, 0), axis=0, dtype=leaf_S.dtype)

    return jax.tree.map(pick, results_S)
