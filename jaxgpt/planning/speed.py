"""Seconds per step: operations over peak, bytes that devices exchange over their links.

All of it is an estimate; the formulas stand in docs/plan.md.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from jaxgpt.experiment import TrainConfig
from jaxgpt.model.cost import flops_per_token
from jaxgpt.model.gpt import make_cache
from jaxgpt.model.remat import NoRemat
from jaxgpt.parallel.sharding import batch_shards
from jaxgpt.planning.devices import Device
from jaxgpt.planning.memory import bytes_per_device


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
    config: TrainConfig,
    vocab_size: int,
    params: Any,
    mesh: AbstractMesh,
    device: Device,
    utilization: float,
) -> SpeedPlan:
    """Estimate a step.

    Args:
        config: of the run.
        vocab_size: ids of the tokenizer.
        params: shapes of the parameters with their shardings.
        mesh: the devices, in their arrangement.
        device: what they are.
        utilization: share of the peak that operations reach (MFU).
    """
    tokens = config.batch.tokens_per_step
    flops = flops_per_token(config.model, vocab_size, config.batch.sequence_length) * tokens
    if not isinstance(config.model.remat, NoRemat):
        flops *= 4 / 3  # At most one more forward pass.
    flops *= config.model.layers.stretch(mesh.shape)
    compute = flops / (mesh.size * device.peak_flops * utilization)
    exchanged = _exchanged_bytes(config, params, mesh)
    link = sum(exchanged.values()) / device.link_bytes_per_second
    step = max(compute, link)
    return SpeedPlan(compute, link, exchanged, step, tokens / step)


def _exchanged_bytes(config: TrainConfig, params: Any, mesh: AbstractMesh) -> dict[str, int]:
    """Bytes that each device sends in a step, by mesh axis; ring algorithms throughout."""
    parts, sizes, model = config.batch.num_micro_batches, mesh.shape, config.model
    itemsize = jnp.dtype(model.compute_dtype).itemsize
    kept = bytes_per_device(params)
    weights = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(params)
    )
    rows = config.batch.global_batch_size / batch_shards(mesh)
    tokens = rows * config.batch.sequence_length / sizes["context"]
    stream = tokens * model.d_model * itemsize
    gathers = 2 if isinstance(model.remat, NoRemat) else 3
    kv = _kv_elements(config, mesh)
    sent = model.feed_forward.exchanged_per_token(
        config.batch.sequence_length // sizes["context"], sizes["expert"]
    )
    found = {
        # All-reduce of gradients: each byte goes round twice.
        "data": parts * 2 * _others(sizes["data"]) * kept,
        # Weights gathered for the forward and the backward pass, gradients scattered.
        "fsdp": parts * (sizes["fsdp"] - 1) * (gathers * weights * itemsize + kept),
        # Two all-reduces of the residual stream forward and two backward, a layer.
        "tensor": 4 * 2 * _others(sizes["tensor"]) * stream * model.num_layers,
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


def _copied_bytes(params: Any, axis: str) -> int:
    """Bytes on a device of parameters that are not split over a mesh axis."""
    leaves = jax.tree.leaves(params)
    return bytes_per_device([leaf for leaf in leaves if axis not in leaf.sharding.spec])


def _others(size: int) -> float:
    return (size - 1) / size


def _kv_elements(config: TrainConfig, mesh: AbstractMesh) -> float:
    """Elements of a token's keys and values over all layers, on one device."""
    cache = jax.eval_shape(lambda: make_cache(config.model, 1, 1))
    elements = sum(math.prod(leaf.shape) for leaf in (*cache.k_BKSH, *cache.v_BKSH))
    return elements / mesh.shape["tensor"]
