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

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.model.layer_stack import (
    PIPELINE,
    ApplyLayer,
    Carry,
    ForwardContext,
    LayerStack,
    Scanned,
)
from jaxgpt.model.remat import Remat


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
        """See `LayerStack.run`; every leaf of the carry is [B, ...], B a multiple of M.

        Raises:
            ConfigError: the layers do not divide into stages.
        """
        num_stages = jax.sharding.get_abstract_mesh().shape.get(PIPELINE, 1)
        if num_stages == 1:
            return self.stage.run(
                apply_layer, params, shared, carry, num_layers, pattern_length, remat
            )
        num_rows = jax.tree.leaves(carry)[0].shape[0]
        _check_stages(num_layers, num_stages, pattern_length)
        layers_per_stage = num_layers // num_stages

        def run_stage(stage: jax.Array, params: Any, shared: ForwardContext, carry: Carry) -> Carry:
            first = stage * layers_per_stage

            def apply(
                params: Any,
                shared: ForwardContext,
                carry: Carry,
                layer: int | jax.Array,
                pattern_index: int,
            ) -> Carry:
                return apply_layer(params, shared, carry, first + layer, pattern_index)

            return self.stage.run(
                apply, params, shared, carry, layers_per_stage, pattern_length, remat
            )

        def run_ticks(params: Any, shared_1: ForwardContext, carry_1M: Carry) -> Carry:
            # Only the mesh axis of the stages is ours to handle; XLA keeps splitting the others.
            stage = jax.lax.axis_index(PIPELINE)
            shared, carry_M = jax.tree.map(lambda leaf_1: leaf_1[0], (shared_1, carry_1M))

            def tick(received: Carry, time: jax.Array) -> tuple[Carry, Carry]:
                # In the bubble a stage repeats a micro-batch, and nobody uses the result.
                number = jnp.clip(time - stage, 0, self.num_micro_batches - 1)
                inputs = jax.tree.map(
                    lambda new_M, old: jnp.where(stage == 0, new_M[number], old), carry_M, received
                )
                result = run_stage(stage, params, _of_micro_batch(shared, number), inputs)
                return _hand_on(result, PIPELINE, num_stages), result

            first = jax.tree.map(lambda leaf_M: leaf_M[0], carry_M)
            times = jnp.arange(self.num_micro_batches + num_stages - 1)
            _, results = jax.lax.scan(tick, first, times)
            return jax.tree.map(lambda leaf: leaf[None, num_stages - 1 :], results)

        context_M = _split(shared.context, num_rows, self.num_micro_batches)
        shared_M = ForwardContext(context_M, shared.dropout_key)
        carry_M = _split(carry, num_rows, self.num_micro_batches)
        results_SM = jax.shard_map(
            run_ticks,
            in_specs=PartitionSpec(PIPELINE),
            out_specs=PartitionSpec(PIPELINE),
            axis_names={PIPELINE},
        )(params, _for_each_stage(shared_M, num_stages), _for_each_stage(carry_M, num_stages))
        return _join(_of_last_stage(results_SM, num_stages))

    def row_multiple(self, mesh_sizes: Mapping[str, int]) -> int:
        """See `LayerStack.row_multiple`; each part of the rows is shared out to other devices."""
        return 1 if mesh_sizes[PIPELINE] == 1 else self.num_micro_batches * _shards(mesh_sizes)

    def stretch(self, mesh_sizes: Mapping[str, int]) -> float:
        """See `LayerStack.stretch`: the ticks of a pass over those of its micro-batches."""
        return 1 + (mesh_sizes[PIPELINE] - 1) / self.num_micro_batches

    def check(
        self, mesh_sizes: Mapping[str, int], num_rows: int, num_layers: int, pattern_length: int
    ) -> None:
        """See `LayerStack.check`; layers must divide into stages, and rows into parts."""
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
    """Devices that share the rows of a micro-batch within a stage."""
    return mesh_sizes["data"] * mesh_sizes["fsdp"] * mesh_sizes["expert"]


def _check_stages(num_layers: int, num_stages: int, pattern_length: int) -> None:
    if num_layers % (num_stages * pattern_length):
        raise ConfigError(
            f"{num_layers} layers in patterns of {pattern_length} do not divide into {num_stages} "
            f"equal stages; make model.num_layers a multiple of {num_stages * pattern_length}, or "
            f"change mesh.pipeline"
        )


def _split(rows: Any, num_rows: int, num_micro_batches: int) -> Any:
    """Leaves [B, ...] to [M, B / M, ...], leaves [1, ...] to [M, 1, ...].

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


def _of_micro_batch(shared: ForwardContext, number: jax.Array) -> ForwardContext:
    key = shared.dropout_key
    return ForwardContext(
        context=jax.tree.map(lambda leaf_M: leaf_M[number], shared.context),
        dropout_key=None if key is None else jax.random.fold_in(key, number),
    )


def _hand_on(carry: Any, axis: str, num_stages: int) -> Any:
    """Give every stage the result of the one before it."""
    ring = [(stage, (stage + 1) % num_stages) for stage in range(num_stages)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis, ring), carry)


def _for_each_stage(tree: Any, num_stages: int) -> Any:
    """Leaves [...] to [S, ...]: their gradients are then summed by XLA, in whatever dtype."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_stages, *leaf.shape)), tree)


def _of_last_stage(results_S: Any, num_stages: int) -> Any:
    """Leaves [S, ...] to those of the last stage; a sum, so that only they are moved."""

    def pick(leaf_S: jax.Array) -> jax.Array:
        is_last_S = jnp.arange(num_stages).reshape(-1, *[1] * (leaf_S.ndim - 1)) == num_stages - 1
        return jnp.sum(jnp.where(is_last_S, leaf_S, 0), axis=0, dtype=leaf_S.dtype)

    return jax.tree.map(pick, results_S)
