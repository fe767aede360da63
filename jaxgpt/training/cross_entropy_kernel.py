"""Cross-entropy and the gradient of its logits as one kernel for NVIDIA GPUs.

XLA takes two passes over the memory of the logits: one for each row's sum of exponentials, and one
that reads the logits again and writes their gradient. Here a program has one row: it sums, and
reads the row a second time while the card's cache still has it, as the kernel of Liger Kernel does
(arXiv:2410.10989, section 3.2).

Axes: N tokens, V padded vocabulary, C a block of the vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxgpt.runtime.target import compile_target
from jaxgpt.training.chunked_loss import TokenSums

# Name of the kernel in a compiled program.
CROSS_ENTROPY = "cross_entropy"
# Numbers of a row that a program has in its registers. With 32 warps there is one program at a time
# on a multiprocessor, so that the rows at work fit into the second-level cache.
_BLOCK, _NUM_WARPS = 16_384, 32
# A logit that is never reached: exp(_LEAST - x) is 0 for every x.
_LEAST = -3e38


def runs_cross_entropy_kernel() -> bool:
    """Return whether the program is for a device that runs the kernel, and has whole rows on it."""
    target, mesh = compile_target(), jax.sharding.get_abstract_mesh()
    is_whole = mesh.empty or all(
        size == 1 or name in mesh.manual_axes for name, size in mesh.shape.items()
    )
    return is_whole and (target.compute_capability >= 8.0 or target.interprets_kernels)


class KernelSettings(NamedTuple):
    """Static settings of the kernel.

    Attributes:
        z_loss: weight of the squared log-normaliser in the objective.
        vocab_size: number of ids; logits of later columns are not read.
        logits_dtype: type of the logits.
        dtype: type that the gradient of the logits is rounded to.
    """

    z_loss: float
    vocab_size: int
    logits_dtype: Any
    dtype: Any


@jax.named_scope("cross_entropy")
def with_gradient_kernel(
    settings: KernelSettings,
    sums: Callable[..., TokenSums],
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> TokenSums:
    """Return `sums(logits, targets, weights)`, which the kernel computes with the gradient.

    Args:
        settings: of the kernel.
        sums: as `loss.cross_entropy`; used where no gradient is taken.
        logits: [..., V] of `settings.logits_dtype`; computed with in float32.
        targets: ids [...].
        weights: [...].
    """
    logits_NV = logits.reshape(-1, logits.shape[-1])
    result = _sums(settings, sums, logits_NV, targets.reshape(-1), weights.reshape(-1))
    return cast(TokenSums, result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(
    settings: KernelSettings,
    sums: Callable[..., TokenSums],
    logits_NV: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> TokenSums:
    return sums(logits_NV, targets_N, weights_N)


def _forward(
    settings: KernelSettings,
    sums: Callable[..., TokenSums],
    logits_NV: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[TokenSums, jax.Array]:
    losses_N, normalisers_N, gradient_NV = _run(settings, logits_NV, targets_N, weights_N)
    objective = loss = jnp.sum(losses_N * weights_N)
    if settings.z_loss:
        objective = loss + settings.z_loss * jnp.sum(jnp.square(normalisers_N) * weights_N)
    return TokenSums(objective, loss), gradient_NV


def _backward(
    settings: KernelSettings,
    sums: Callable[..., TokenSums],
    gradient_NV: jax.Array,
    cotangents: TokenSums,
) -> Any:
    # A gradient has the type of its array. The one who rounds it to `dtype` gets it as it is.
    dlogits_NV = gradient_NV.astype(jnp.float32) * cotangents.objective
    return dlogits_NV.astype(settings.logits_dtype), None, None


_sums.defvjp(_forward, _backward)


def _run(
    settings: KernelSettings, logits_NV: jax.Array, targets_N: jax.Array, weights_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return losses [N], log-normalisers [N] and the gradient [N, V] of the objective."""
    # Pallas takes a second to import, and only a GPU needs it.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    z_loss, vocab_size, _, dtype = settings
    num_tokens, padded_size = logits_NV.shape
    block = min(_BLOCK, pl.next_power_of_2(padded_size))
    num_blocks = -(-padded_size // block)

    def run(
        targets_N: Any,
        weights_N: Any,
        logits_NV: Any,
        losses_N: Any,
        totals_N: Any,
        dlogits_NV: Any,
    ) -> None:
        row = pl.program_id(0)
        target, weight = targets_N[row], weights_N[row]

        def columns(place: Any) -> jax.Array:
            return place * block + jnp.arange(block)

        def load(place: Any) -> jax.Array:
            here = logits_NV.at[row, pl.ds(place * block, block)]
            logits_C = triton.load(here, mask=columns(place) < vocab_size, other=_LEAST)
            return logits_C.astype(jnp.float32)

        def add(place: Any, so_far: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            largest, total = so_far
            logits_C = load(place)
            new = jnp.maximum(largest, jnp.max(logits_C))
            return new, total * jnp.exp(largest - new) + jnp.sum(jnp.exp(logits_C - new))

        start = jnp.float32(_LEAST), jnp.float32(0)
        largest, total = lax.fori_loop(0, num_blocks, add, start)
        normaliser = largest + jnp.log(total)

        def write(turn: Any, target_logit: jax.Array) -> jax.Array:
            # What was read last is in the cache for sure.
            place = num_blocks - 1 - turn
            logits_C, is_target_C = load(place), columns(place) == target
            share_C = jnp.exp(logits_C - normaliser) * (1 + 2 * z_loss * normaliser)
            gradient_C = weight * (share_C - is_target_C.astype(jnp.float32))
            here = dlogits_NV.at[row, pl.ds(place * block, block)]
            triton.store(here, gradient_C.astype(dtype), mask=columns(place) < padded_size)
            return target_logit + jnp.sum(jnp.where(is_target_C, logits_C, 0.0))

        losses_N[row] = normaliser - lax.fori_loop(0, num_blocks, write, jnp.float32(0))
        totals_N[row] = normaliser

    if compile_target().interprets_kernels:
        how: dict[str, Any] = {"interpret": True}
    else:
        how = {"compiler_params": triton.CompilerParams(num_warps=_NUM_WARPS, num_stages=1)}
    of_tokens = jax.ShapeDtypeStruct((num_tokens,), jnp.float32)
    losses_N, normalisers_N, gradient_NV = pl.pallas_call(
        run,
        grid=(num_tokens,),
        out_shape=(of_tokens, of_tokens, jax.ShapeDtypeStruct(logits_NV.shape, dtype)),
        name=CROSS_ENTROPY,
        **how,
    )(targets_N, weights_N.astype(jnp.float32), logits_NV)
    return losses_N, normalisers_N, gradient_NV
