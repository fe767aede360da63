"""Bytes per device by part: what is kept is exact, what a step needs besides is an estimate.

The formulas stand in docs/plan.md; tests compare them with XLA's own memory analysis.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from jaxgpt.config import replace
from jaxgpt.model.adapted import join
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.moe.mixture_of_experts import is_rounded
from jaxgpt.parallel.sharding import batch_shards
from jaxgpt.planning.activations import attention_kernel, kept_bytes, with_kernel
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.runs.config import RunConfig
from jaxgpt.runs.setup import plan_run_state, with_frozen_models
from jaxgpt.runtime.target import CompileTarget
from jaxgpt.training.chunked_loss import LossSizes
from jaxgpt.training.state import StatePlan
from jaxgpt.training.weight_copies import WeightCopies, plan_copies


class MemoryPlan(NamedTuple):
    """Bytes on each device when most are needed.

    The first three and `batch` are exact, the others estimates. `parameters` are those that are
    trained, and `frozen` the others, also those of other models that the loss reads. What the loss
    and the backward pass of one layer need only while they work is counted where it is more: they
    take turns. `products` is the workspace of cuBLAS. At the peak of the loss it is free: there a
    kernel between the products has both the logits and their gradient.
    """

    parameters: int
    frozen: int
    optimizer: int
    batch: int
    gradients: int
    gathered_weights: int
    activations: int
    logits_and_ends: int
    products: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def plan_kept_state(run: PlannedRun, mesh: AbstractMesh) -> StatePlan:
    """Plan shapes and shardings of all arrays that the run keeps of its own model."""
    model = with_kernel(run, mesh, CompileTarget(platform="cpu"))
    config = replace(run.config, model=model)
    return plan_run_state(config, config.build_model(run.vocab_size), mesh)[0]


def plan_memory(run: PlannedRun, mesh: AbstractMesh, target: CompileTarget) -> MemoryPlan:
    """Work out what each device holds while it trains.

    Args:
        run: the run.
        mesh: the devices, in their arrangement.
        target: their kind; decides the attention kernel.
    """
    config, plan = run.config, plan_kept_state(run, mesh)
    state, everything = plan.abstract, with_frozen_models(plan, config, mesh, run.vocab_size)
    rows = config.batch.global_batch_size / batch_shards(mesh)
    micro_rows = rows / config.batch.num_micro_batches / mesh.shape["context"]
    kept = kept_bytes(run, mesh, target)
    recomputed = kept.layer_at_work if kept.layer < kept.layer_at_work else 0.0
    # Gradients, too; but attention and feed-forward take turns to have theirs. When it is the turn
    # of attention, what was recomputed for the feed-forward is gone, and scores are there.
    layer_at_work = max(
        micro_rows * (recomputed + kept.layer_at_work / 2),
        micro_rows * (recomputed + kept.layer_at_work) / 2 + _attention_at_work(run, mesh, target),
    )
    loss_at_work = _loss_at_work(run, mesh, target, micro_rows)
    copies = copies_of(config, plan, target)
    workspace = cublas_workspace(target)
    is_loss = loss_at_work > layer_at_work + workspace
    layers, ends = micro_rows * config.model.num_layers * kept.layer, micro_rows * kept.ends
    return MemoryPlan(
        parameters=bytes_per_device(state.trainable),
        frozen=bytes_per_device(everything.abstract.frozen),
        optimizer=bytes_per_device(state.opt_state),
        batch=round(rows / mesh.shape["context"] * run.bytes_of_row),
        gradients=_gradient_bytes(config, plan, copies, target),
        gathered_weights=_gathered_bytes(config, plan, mesh, copies, target),
        activations=round(layers + (0 if is_loss else layer_at_work)),
        logits_and_ends=round(ends + (loss_at_work if is_loss else 0)),
        products=0 if is_loss else workspace,
    )


def cublas_workspace(target: CompileTarget) -> int:
    """Return the bytes that XLA sets aside for cuBLAS, which all products use in turn."""
    if not target.multiplies_by_cublas:
        return 0
    # Kernels of Hopper and later cards keep more there.
    return (32 if target.compute_capability >= 9.0 else 4) << 20


def _loss_at_work(
    run: PlannedRun, mesh: AbstractMesh, target: CompileTarget, micro_rows: float
) -> float:
    """Return the bytes that the loss needs while it works; a head of classes needs next to none."""
    config, model = run.config, run.config.model
    if not isinstance(model.head, LanguageModelHead):
        return 0.0
    num_tokens = math.ceil(micro_rows * config.batch.sequence_length)
    num_columns = model.pad_vocab(run.vocab_size) // mesh.shape["tensor"]
    compute_bytes = jnp.dtype(model.compute_dtype).itemsize
    adapter = config.build_model(run.vocab_size).adapter
    # A CPU's products return float32, and their gradients are as wide.
    rounded_bytes = 4 if target.is_cpu else compute_bytes
    sizes = LossSizes(
        num_tokens=num_tokens,
        vocab_size=num_columns,
        width=model.d_model,
        logit_bytes=rounded_bytes if config.loss.round_logits else 4,
        gradient_bytes=rounded_bytes,
        is_trained=not adapter.has_parameters,
    )
    scores = config.loss.logits.workspace_bytes(sizes)
    # A frozen head with changed rows is another array than the one that is kept.
    merged = num_columns * model.d_model * compute_bytes if adapter.changed_ids else 0
    return scores + merged


def bytes_per_device(tree: Any) -> int:
    """Return the bytes of one device's shards of arrays, or of their shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    )


def copies_of(config: RunConfig, state: StatePlan, target: CompileTarget) -> WeightCopies:
    """Return the copies of weights that a step makes."""
    num_micro_batches, max_bytes = config.batch.num_micro_batches, config.runtime.max_copied_bytes
    return plan_copies(config.model, state, target, num_micro_batches, max_bytes)


def _gradient_bytes(
    config: RunConfig, state: StatePlan, copies: WeightCopies, target: CompileTarget
) -> int:
    """Return the bytes of gradient sums, and of the gradients that micro-batches add to them.

    A GPU's products add what layers with copies have to their sums themselves.
    """
    params = state.abstract.trainable
    if config.batch.num_micro_batches == 1:
        return bytes_per_device(params)
    added = bytes_per_device(params["blocks"] if copies.has_layers and not target.is_cpu else {})
    return 2 * bytes_per_device(params) - added


def _gathered_bytes(
    config: RunConfig,
    state: StatePlan,
    mesh: AbstractMesh,
    copies: WeightCopies,
    target: CompileTarget,
) -> int:
    """Return the bytes of weight copies; without them, of two layers gathered along `fsdp`.

    And the embedding and the head, if they are no copies: a GPU's compiler rounds them once a step.
    """
    params = join(state.abstract.trainable, state.abstract.frozen)
    blocks, itemsize = params["blocks"], jnp.dtype(config.model.compute_dtype).itemsize
    if mesh.shape["fsdp"] == 1 or copies.has_layers:
        rounded = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            if path[0].key != "blocks"
            and is_rounded(path)
            and not copies.has(path)
            and leaf.dtype != config.model.compute_dtype
        ]
        share = itemsize / jnp.dtype(config.model.param_dtype).itemsize
        rounded_bytes = 0 if target.is_cpu else round(bytes_per_device(rounded) * share)
        return copies.num_bytes + rounded_bytes
    num_layers = config.model.num_layers / mesh.shape["pipeline"]
    kept = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(blocks))
    return copies.num_bytes + round(2 * itemsize * mesh.shape["fsdp"] * kept / num_layers)


def _attention_at_work(run: PlannedRun, mesh: AbstractMesh, target: CompileTarget) -> float:
    """Return the bytes of scores that attention needs but does not keep."""
    config, kernel = run.config, attention_kernel(run, mesh, target)
    attention = config.model.attention
    if not isinstance(attention, GroupedQueryAttention) or kernel is None:
        return 0.0
    return kernel.workspace_bytes(
        config.batch.global_batch_size / batch_shards(mesh) / config.batch.num_micro_batches,
        config.batch.sequence_length // mesh.shape["context"],
        attention.num_heads / mesh.shape["tensor"],
        jnp.dtype(config.model.compute_dtype).itemsize,
    )
