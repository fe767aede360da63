"""Arrays that a forward pass keeps for the backward pass, found from the model without running it.
`jax.eval_shape` of `jax.vjp` lists every array that is kept, for all variants of the model. Two
depths and two batch sizes give the bytes per layer and row, and per row.

Axes: B rows, T tokens of a row.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import meta
from jax.sharding import AbstractMesh

from jaxgpt.batch import Batch
from jaxgpt.config import replace
from jaxgpt.model.adapted import is_trained, join, split
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.cpu import CpuBlockwise
from jaxgpt.model.attention.gpu import Cudnn, Pallas
from jaxgpt.model.attention.kernel import AttentionInputs, AttentionKernel, Scores
from jaxgpt.model.attention.kernels import Fastest, choose_kernel
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.attention.reference import Reference, SavedProbabilities
from jaxgpt.model.attention.ring import Ring
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layer_stack import Unrolled
from jaxgpt.model.remat import NoRemat
from jaxgpt.planning.planned_run import PlannedRun
from jaxgpt.runtime.target import CompileTarget, compiling_for


class KeptBytes(NamedTuple):
    """Bytes that one row of a micro-batch adds on a device, were its tokens not split.

    Attributes:
        layer: kept of each layer.
        layer_at_work: what it would keep if nothing were recomputed.
        ends: kept outside of the layers: embedding, last norm, loss, and logits if they are.
    """

    layer: float
    layer_at_work: float
    ends: float


def kept_bytes(run: PlannedRun, mesh: AbstractMesh, target: CompileTarget) -> KeptBytes:
    """Measure a model's activations.

    Args:
        run: the run.
        mesh: the devices; its tensor axis splits heads, hidden units and vocabulary.
        target: the kind of device, which decides what `Fastest` attention keeps.
    """
    model = with_kernel(run, mesh, target)
    devices = _Devices(mesh.shape["tensor"], target.is_cpu)
    with compiling_for(target):
        layer, ends = _measure(run, model, devices)
        at_work, _ = _measure(run, replace(model, remat=NoRemat()), devices)
    return KeptBytes(layer, at_work, ends)


def attention_kernel(
    run: PlannedRun, mesh: AbstractMesh, target: CompileTarget
) -> AttentionKernel | None:
    """Return the kernel that training would use on the plan's devices; None if none is chosen."""
    config = run.config
    attention = config.model.attention
    if not isinstance(attention, GroupedQueryAttention):
        return None
    if not isinstance(attention.kernel, Fastest):
        return attention.kernel
    if config.model.dropout.attention:
        return Reference()
    if mesh.shape["context"] > 1:
        return Ring()
    if mesh.shape["pipeline"] > 1:
        # No fast kernel works inside a pipeline's stages.
        return SavedProbabilities()
    head_dim = attention.resolve_head_dim(config.model.d_model)
    shape = (1, config.batch.sequence_length, 1, head_dim)
    q_BTNH = jax.ShapeDtypeStruct(shape, jnp.dtype(config.model.compute_dtype))
    segments_BT = None if run.row.segment_ids_BT is None else jnp.ones(shape[:2], jnp.int32)
    scores = Scores(1.0, attention.soft_cap)
    # Of layers with and without a window, the one that fewer kernels know.
    window = next((window for window in attention.windows if window is not None), None)
    mask = AttentionMask(segment_ids_BT=segments_BT, window=window)
    with compiling_for(target):
        return choose_kernel(AttentionInputs(q_BTNH, q_BTNH, q_BTNH, mask, scores))[0]


def with_kernel(run: PlannedRun, mesh: AbstractMesh, target: CompileTarget) -> GptConfig:
    """Return the model with a named kernel that keeps as much as the chosen one would."""
    model, kernel = run.config.model, attention_kernel(run, mesh, target)
    attention = model.attention
    if not isinstance(attention, GroupedQueryAttention) or kernel is None:
        return model
    # These need a GPU even to be traced; the row-by-row kernel keeps the same arrays.
    kernel = CpuBlockwise() if isinstance(kernel, Cudnn | Pallas) else kernel
    return replace(model, attention=replace(attention, kernel=kernel))


class _Devices(NamedTuple):
    """Number along the tensor axis, and whether they are CPUs."""

    tensor: int
    are_cpus: bool


def _measure(run: PlannedRun, model: GptConfig, devices: _Devices) -> tuple[float, float]:
    """Return the bytes (per layer, outside the layers) that the forward pass keeps per row."""
    pattern_length = model.attention.pattern_length

    def row(num_patterns: int) -> float:
        short = replace(model, num_layers=num_patterns * pattern_length, layers=Unrolled())
        few, many = (_total(run, short, devices, rows) for rows in (2, 4))
        return (many - few) / 2

    one, two = row(1), row(2)
    return (two - one) / pattern_length, one - (two - one)


def _total(run: PlannedRun, model: GptConfig, devices: _Devices, num_rows: int) -> float:
    config, compute_dtype = replace(run.config, model=model), jnp.dtype(model.compute_dtype)
    normalised = [model.d_model]
    if isinstance(model.attention, GroupedQueryAttention) and model.attention.qk_norm is not None:
        normalised.append(model.attention.resolve_head_dim(model.d_model))
    built, others = config.build_model(run.vocab_size), config.objective.frozen_models
    bytes_per_token_V = jnp.ones(run.vocab_size, jnp.int32)
    loss = config.objective.build_loss(built, bytes_per_token_V, config.loss, run.num_segments)

    def init(model: Gpt) -> Any:
        return meta.unbox(model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])

    def kept(batch: Batch) -> Any:
        trained, frozen = split(init(built), partial(is_trained, built))
        frozen |= {name: init(other.model.build(run.vocab_size)) for name, other in others.items()}

        def objective(trained: Any) -> jax.Array:
            return loss(join(trained, frozen), batch, jax.random.key(0)).objective

        return jax.vjp(objective, trained)[1]

    def share(leaf: Any) -> float:
        if not hasattr(leaf, "shape") or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return 0.0
        # The residual stream and scalars of tokens lie whole along the tensor axis.
        whole = leaf.ndim <= 2 or leaf.shape[-1] in (1, model.d_model)
        itemsize: float = leaf.dtype.itemsize
        is_normalised = leaf.ndim > 2 and leaf.shape[-1] in normalised
        if not devices.are_cpus and is_normalised and itemsize > compute_dtype.itemsize:
            # A norm's gradient needs two float32 arrays. XLA's GPU compiler keeps the one that both
            # are made of, in the compute dtype.
            itemsize = compute_dtype.itemsize / 2
        if not devices.are_cpus and leaf.dtype == bool:
            # It makes comparisons again.
            return 0.0
        return math.prod(leaf.shape) * itemsize / (1 if whole else devices.tensor)

    return sum(share(leaf) for leaf in jax.tree.leaves(jax.eval_shape(kept, run.rows(num_rows))))
