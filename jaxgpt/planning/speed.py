"""Seconds per step: operations over peak, bytes that devices exchange over their links.

All of it is an estimate; the formulas stand in docs/plan.md.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from jaxgpt.model.adapted import join
from jaxgpt.model.cost import flops_per_token
from jaxgpt.model.gpt import make_cache
from jaxgpt.model.remat import NoRemat
from jaxgpt.parallel.sharding import batch_shards
from jaxgpt.planning.devices import Device
from jaxgpt.planning.memory import bytes_per_device, copies_of
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.runs.config import RunConfig
from jaxgpt.runs.setup import with_frozen_models
from jaxgpt.training.state import StatePlan
from jaxgpt.training.weight_copies import WeightCopies


class SpeedPlan(NamedTuple):
    """Estimates for one optimiser step.

    Attributes:
        compute_seconds: operations at the assumed share of the peak.
        link_seconds: exchange between devices, were it not hidden behind operations.
        exchanged_bytes: sent by each device, by mesh axis.
        step_seconds: the larger of both: XLA overlaps them as far as it can.
        tokens_per_second: of all devices together.
    """

    compute_seconds: float
    link_seconds: float
    exchanged_bytes: dict[str, int]
    step_seconds: float
    tokens_per_second: float


def plan_speed(
    run: PlannedRun,
    state: StatePlan,
    mesh: AbstractMesh,
    device: Device,
    utilization: float,
) -> SpeedPlan:
    """Estimate a step.

    Args:
        run: the run.
        state: shapes and places of the parameters.
        mesh: the devices, in their arrangement.
        device: what they are.
        utilization: share of the peak that operations reach (MFU).
    """
    config, tokens = run.config, run.config.batch.tokens_per_step
    flops = _flops_per_token(run) * tokens * config.model.layers.stretch(mesh.shape)
    compute = flops / (mesh.size * device.peak_flops * utilization)
    copies = copies_of(config, state, device.target)
    exchanged = _exchanged_bytes(run, state, copies, mesh)
    link = sum(exchanged.values()) / device.link_bytes_per_second
    step = max(compute, link)
    return SpeedPlan(compute, link, exchanged, step, tokens / step)


def _flops_per_token(run: PlannedRun) -> float:
    """Return the operations per token of all passes of a step.

    A forward pass is a third of `flops_per_token`. Frozen kernels have no gradients, and the
    adapter's own products are left out.
    """
    config, length = run.config, run.config.batch.sequence_length
    num_passes = 2 if _has_adapter(run) else 3
    if not isinstance(config.model.remat, NoRemat):
        num_passes += 1  # At most one more forward pass.
    num_passes += _reads_base(run)
    flops = num_passes / 3 * flops_per_token(config.model, run.vocab_size, length)
    for other in config.objective.frozen_models.values():
        flops += flops_per_token(other.model, run.vocab_size, length) / 3
    return flops


def _has_adapter(run: PlannedRun) -> bool:
    return run.config.build_model(run.vocab_size).adapter.has_parameters


def _reads_base(run: PlannedRun) -> bool:
    """Return whether each step has a forward pass of the base, too, which an adapter leaves as is.

    Without an adapter, what the base says of each answer is computed before the first step.
    """
    return _has_adapter(run) and run.config.objective.needs_reference


def _exchanged_bytes(
    run: PlannedRun, state: StatePlan, copies: WeightCopies, mesh: AbstractMesh
) -> dict[str, int]:
    """Return the bytes that each device sends per step, by mesh axis, with ring algorithms."""
    config, sizes, model = run.config, mesh.shape, run.config.model
    parts = config.batch.num_micro_batches
    itemsize = jnp.dtype(model.compute_dtype).itemsize
    params = state.abstract.trainable
    rows = config.batch.global_batch_size / batch_shards(mesh)
    tokens = rows * config.batch.sequence_length / sizes["context"]
    stream = tokens * model.d_model * itemsize
    gathers = _num_gathers(config)
    kv = _kv_elements(config, mesh)
    sent = model.feed_forward.exchanged_per_token(
        config.batch.sequence_length // sizes["context"], sizes["expert"]
    )
    found = {
        # All-reduce of gradients: each byte goes round twice.
        "data": 2 * _others(sizes["data"]) * _reduced_bytes(state, copies, parts),
        # Weights gathered, gradients scattered.
        "fsdp": (sizes["fsdp"] - 1)
        * (_gathered_bytes(run, state, copies, mesh) + parts * _split_bytes(params)),
        # All-reduces of the residual stream: two forward and two backward a layer, one that is
        # recomputed, the looked-up rows, and the gradient of the last hidden state.
        "tensor": 2 * _others(sizes["tensor"]) * stream * (model.num_layers * (gathers + 2) + 2),
        # Keys and values once around forward, and backward with their float32 gradients.
        "context": (sizes["context"] - 1) * tokens * kv * (2 * itemsize + 4),
        # What tokens need of experts elsewhere, in each pass; gradients of all that is no expert's.
        "expert": gathers * sent * stream * model.num_layers
        + parts * 2 * _others(sizes["expert"]) * _copied_bytes(params, "expert"),
        # A stage works on the rows of all, which are gathered before and summed after, and hands
        # them on at every tick; backward the same. Gradients of what is in no stage.
        "pipeline": 2 * stream * (sizes["pipeline"] * model.layers.stretch(sizes))
        + 6 * stream * (sizes["pipeline"] - 1)
        + parts * 2 * _others(sizes["pipeline"]) * _copied_bytes(params, "pipeline"),
    }
    return {name: round(count) for name, count in found.items() if sizes[name] > 1}


def _reduced_bytes(state: StatePlan, copies: WeightCopies, parts: int) -> int:
    """Return the bytes of gradients that devices along `data` sum in a step of micro-batches. They
    are exchanged once per step if each layer has its own sum, and for shared parameters, because
    XLA moves that exchange behind the last micro-batch.
    """
    return sum(
        bytes_per_device(leaf) * (parts if how.is_stacked and not how.is_copied else 1)
        for leaf, how in _uses(state.abstract.trainable, state.axes, copies)
    )


def _num_gathers(config: RunConfig) -> int:
    """Return the passes of a micro-batch over a layer: forward, backward, and to recompute it."""
    return 2 if isinstance(config.model.remat, NoRemat) else 3


def _gathered_bytes(
    run: PlannedRun, state: StatePlan, copies: WeightCopies, mesh: AbstractMesh
) -> int:
    """Return the bytes of a device's weight shards, times the gathers of a step.

    Copies once; else layers for each pass of each micro-batch, and what all layers share once a
    micro-batch, frozen or not. The models that the loss reads besides have a forward pass only.
    """
    config, vocab_size = run.config, run.vocab_size
    parts, itemsize = config.batch.num_micro_batches, jnp.dtype(config.model.compute_dtype).itemsize
    passes = _num_gathers(config) + _reads_base(run)
    params = join(state.abstract.trainable, state.abstract.frozen)
    own = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape))
        * itemsize
        * (1 if how.is_copied else parts * (passes if how.is_stacked else 1))
        for leaf, how in _uses(params, join(state.axes, state.frozen_axes), copies)
        if "fsdp" in leaf.sharding.spec
    )
    frozen = with_frozen_models(state, config, mesh, vocab_size).abstract.frozen
    others = [frozen[name] for name in config.objective.frozen_models]
    return own + parts * _split_bytes(others)


class _Use(NamedTuple):
    """Place of a parameter in a step: one of all layers or shared by them, and copied or not."""

    is_stacked: bool
    is_copied: bool


def _uses(params: Any, axes: Any, copies: WeightCopies) -> list[tuple[Any, _Use]]:
    """Return parameters with the names of their axes, and how they are used."""
    named = jax.tree_util.tree_leaves_with_path(params)
    names = jax.tree.leaves(axes, is_leaf=lambda axes: isinstance(axes, tuple))
    return [
        (leaf, _Use("layers" in axes, copies.has(path)))
        for (path, leaf), axes in zip(named, names, strict=True)
    ]


def _split_bytes(params: Any) -> int:
    """Return bytes on a device of the parameters that `fsdp` splits."""
    leaves = jax.tree.leaves(params)
    return bytes_per_device([leaf for leaf in leaves if "fsdp" in leaf.sharding.spec])


def _copied_bytes(params: Any, axis: str) -> int:
    """Return bytes on a device of parameters that are not split over a mesh axis."""
    leaves = jax.tree.leaves(params)
    return bytes_per_device([leaf for leaf in leaves if axis not in leaf.sharding.spec])


def _others(size: int) -> float:
    return (size - 1) / size


def _kv_elements(config: RunConfig, mesh: AbstractMesh) -> float:
    """Return the number of elements of a token's keys and values, all layers, on one device."""
    cache = jax.eval_shape(lambda: make_cache(config.model, 1, 1))
    elements = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves((cache.k_BKCH, cache.v_BKCH)))
    return elements / mesh.shape["tensor"]
