"""Linear cross-entropy: hidden states to sums over tokens, with all logits at once or in chunks.

Logits are the largest array of a step: B T V numbers, 26 GB in float32 for 131,072 tokens of a
vocabulary of 50,304. `TokenChunks` makes them for some tokens at a time and takes their gradient at
once, in the forward pass (as Liger Kernel does, arXiv:2410.10989, section 3.2): the same three
matrix products as the plain way, and nothing is kept or computed twice.

Some objectives need the loss of each token, and pull on each with a weight that is known only when
all are there (those of preferences). `per_token` then computes a chunk's logits again in the
backward pass: a matrix product more, and still no array of all logits.

Axes: B rows, T time, N tokens of all rows, C chunks, D model, V padded vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxgpt.config import configclass
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.placement import mesh_axes, placement


class TokenSums(NamedTuple):
    """Sums over tokens, each times its weight: float32 scalars.

    Attributes:
        objective: the minimised loss.
        loss: cross-entropy alone, in nats; without a gradient.
    """

    objective: jax.Array
    loss: jax.Array


class LossInputs(NamedTuple):
    """Inputs of the losses of tokens.

    Attributes:
        x: hidden states after the final norm [..., D].
        kernel: what the head multiplies them with: a matrix of any shape, or a tree of arrays.
        targets: ids of the predicted tokens [...].
        weights: of their losses [...].
        others: a tree of further arrays of the tokens [..., D'], without a gradient.
        other_kernels: a tree of further matrices, without a gradient.
    """

    x: jax.Array
    kernel: Any
    targets: jax.Array
    weights: jax.Array
    others: Any = None
    other_kernels: Any = None

    def with_kernels_of(self, inputs: "LossInputs") -> "LossInputs":
        """Return a chunk of `inputs` with all their matrices."""
        return self._replace(kernel=inputs.kernel, other_kernels=inputs.other_kernels)


class LossSizes(NamedTuple):
    """Sizes of the loss of a micro-batch on a device.

    Attributes:
        num_tokens: number of tokens, N.
        vocab_size: the device's share of the padded vocabulary, V.
        width: width of the model, D.
        logit_bytes: bytes of a logit.
        gradient_bytes: bytes of a number of the logits' gradient.
        is_trained: whether the kernel has a gradient, too.
    """

    num_tokens: int
    vocab_size: int
    width: int
    logit_bytes: int
    gradient_bytes: int
    is_trained: bool


Score = Callable[[LossInputs], TokenSums]
# From inputs to the loss of each target [...], which the weights have no part in.
ScoreEach = Callable[[LossInputs], jax.Array]


@configclass
class LinearCrossEntropy:
    """Base of the methods that turn hidden states into sums."""

    def sums(self, score: Score, inputs: LossInputs) -> TokenSums:
        """Score the tokens [B, T]; differentiable in `inputs.x` and `inputs.kernel`."""
        raise NotImplementedError(f"{type(self).__name__} has no sums")

    def per_token(self, score: ScoreEach, inputs: LossInputs) -> jax.Array:
        """Return the losses [B, T], with a gradient for `inputs.x` and `inputs.kernel`."""
        raise NotImplementedError(f"{type(self).__name__} has no per_token")

    def workspace_bytes(self, sizes: LossSizes) -> int:
        """Estimate the bytes that a device needs only while it scores, for plans. Arrays kept for
        the backward pass and the final gradients are not included.
        """
        raise NotImplementedError(f"{type(self).__name__} has no workspace_bytes")


@configclass
class WholeLogits(LinearCrossEntropy):
    """All logits at once, differentiated automatically."""

    def sums(self, score: Score, inputs: LossInputs) -> TokenSums:
        return score(inputs)

    def per_token(self, score: ScoreEach, inputs: LossInputs) -> jax.Array:
        return score(inputs)

    def workspace_bytes(self, sizes: LossSizes) -> int:
        """Return the bytes of the logits' gradient; the logits are kept for the backward pass."""
        return sizes.gradient_bytes * sizes.num_tokens * sizes.vocab_size


@configclass
class TokenChunks(LinearCrossEntropy):
    """The logits of some tokens at a time, on each device."""

    num_tokens: int = 4096
    """Most tokens per chunk; fewer need less memory, but too few make the matrix products slow."""

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, not {self.num_tokens}")

    def sums(self, score: Score, inputs: LossInputs) -> TokenSums:
        return _chunked(score, self.num_tokens, inputs)

    def per_token(self, score: ScoreEach, inputs: LossInputs) -> jax.Array:
        return _chunked_per_token(score, self.num_tokens, inputs)

    def workspace_bytes(self, sizes: LossSizes) -> int:
        """Return the bytes of a chunk's logits, their gradient, and the kernel's gradient.

        The sum of the kernel's gradients is whole on each device. The logits of a single chunk are
        gone when the kernel's gradient is made.
        """
        num_chunks, num_tokens = _divide(sizes.num_tokens, self.num_tokens)
        logits = sizes.logit_bytes * sizes.vocab_size * num_tokens
        kernel = 4 * sizes.vocab_size * sizes.width * sizes.is_trained
        both = max(logits, kernel) if num_chunks == 1 else logits + kernel
        return sizes.gradient_bytes * sizes.vocab_size * num_tokens + both


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(score: Score, chunk_tokens: int, inputs: LossInputs) -> TokenSums:
    def sum_chunks(inputs: LossInputs) -> tuple[TokenSums]:
        @jax.named_scope("loss_chunk")
        def add(total: TokenSums, chunk: LossInputs) -> tuple[TokenSums, None]:
            return _add(total, score(chunk.with_kernels_of(inputs))), None

        return (jax.lax.scan(add, _zero(), _split(inputs, chunk_tokens))[0],)

    return _on_each_device(sum_chunks, inputs, are_rows=(False,))(inputs)[0]


def _forward(
    score: Score, chunk_tokens: int, inputs: LossInputs
) -> tuple[TokenSums, tuple[jax.Array, Any]]:
    """Return the sums, and the gradients of the objective, which the backward pass needs."""

    def objective(x_ND: jax.Array, kernel: Any, chunk: LossInputs) -> Any:
        sums = score(chunk._replace(x=x_ND, kernel=kernel))
        return sums.objective, sums

    def sum_chunks(inputs: LossInputs) -> tuple[TokenSums, jax.Array, Any]:
        gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
        x_BTD, kernel = inputs.x, inputs.kernel
        # Rounded once, not in every chunk; the gradient is that of the unrounded one.
        rounded = jax.tree.map(lambda part: part.astype(x_BTD.dtype), kernel)

        @jax.named_scope("loss_chunk")
        def add(carry: Any, chunk: LossInputs) -> tuple[Any, jax.Array]:
            total, dkernel = carry
            chunk = chunk.with_kernels_of(inputs)
            (dx_ND, one), sums = gradient(chunk.x, _in_types_of(kernel, rounded), chunk)
            dkernel = jax.tree.map(jnp.add, dkernel, _in_types_of(dkernel, one))
            return (_add(total, sums), dkernel), dx_ND

        zero = jax.tree.map(
            lambda part: jnp.zeros(part.shape, accumulator_dtype(part.dtype)), kernel
        )
        chunks = _split(inputs, chunk_tokens)
        (total, dkernel), dx_CND = jax.lax.scan(add, (_zero(), zero), chunks)
        num_tokens = x_BTD.shape[0] * x_BTD.shape[1]
        dx_BTD = dx_CND.reshape(-1, x_BTD.shape[2])[:num_tokens].reshape(x_BTD.shape)
        return total, dx_BTD, dkernel

    run = _on_each_device(sum_chunks, inputs, are_rows=(False, True, False))
    sums, dx_BTD, dkernel = run(inputs)
    return sums, (dx_BTD, _in_types_of(inputs.kernel, dkernel))


def _backward(
    score: Score,
    chunk_tokens: int,
    gradients: tuple[jax.Array, Any],
    cotangents: TokenSums,
) -> tuple[LossInputs]:
    dx_BTD, dkernel = gradients
    factor = cotangents.objective
    dx_BTD = dx_BTD * factor.astype(dx_BTD.dtype)
    nothing: Any = None
    dkernel = jax.tree.map(lambda part: part * factor.astype(part.dtype), dkernel)
    return (LossInputs(dx_BTD, dkernel, nothing, nothing),)


_chunked.defvjp(_forward, _backward)


def _chunked_per_token(score: ScoreEach, chunk_tokens: int, inputs: LossInputs) -> jax.Array:
    def score_chunks(inputs: LossInputs) -> tuple[jax.Array]:
        @jax.named_scope("loss_chunk")
        @jax.checkpoint
        def score_chunk(_: None, chunk: LossInputs) -> tuple[None, jax.Array]:
            return None, score(chunk.with_kernels_of(inputs))

        rows, length = inputs.targets.shape
        _, losses_CN = jax.lax.scan(score_chunk, None, _split(inputs, chunk_tokens))
        return (losses_CN.reshape(-1)[: rows * length].reshape(rows, length),)

    return _on_each_device(score_chunks, inputs, are_rows=(True,))(inputs)[0]


def _split(inputs: LossInputs, chunk_tokens: int) -> LossInputs:
    """Split the arrays of tokens, [B, T, ...] to [C, N / C, ...]; kernels are left out.

    Zeros, which weigh nothing, fill the last chunk.
    """
    num_rows, length = inputs.x.shape[:2]
    num_tokens = num_rows * length
    num_chunks, size = _divide(num_tokens, chunk_tokens)

    def split(array_BT: jax.Array) -> jax.Array:
        array_N = array_BT.reshape(num_tokens, *array_BT.shape[2:])
        missing = [(0, num_chunks * size - num_tokens)] + [(0, 0)] * (array_N.ndim - 1)
        return jnp.pad(array_N, missing).reshape(num_chunks, size, *array_N.shape[1:])

    return jax.tree.map(split, inputs._replace(kernel=None, other_kernels=None))


def _divide(num_tokens: int, chunk_tokens: int) -> tuple[int, int]:
    """Return the number of chunks, and of tokens in each."""
    num_chunks = -(-num_tokens // chunk_tokens)
    return num_chunks, -(-num_tokens // num_chunks)


def _on_each_device(
    run: Callable[[LossInputs], Any], inputs: LossInputs, are_rows: tuple[bool, ...]
) -> Callable[[LossInputs], Any]:
    """Let each device run over its own tokens, then add up what is no array of rows.

    XLA alone would make devices exchange tokens to fill each chunk, and kernel sums after each
    chunk.

    Args:
        run: from inputs to a tuple of results.
        inputs: says how rows lie on the mesh.
        are_rows: for each result whether it is [B, T, ...], or else sums over tokens.
    """
    spec = placement(inputs.x.shape, ("batch", "time", "residual"))
    if spec is None or not (axes := mesh_axes(PartitionSpec(*spec[:2]))):
        return run
    rows: Any = PartitionSpec(*spec[:2])
    whole: Any = PartitionSpec()

    def run_and_sum(inputs: LossInputs) -> Any:
        results = zip(are_rows, run(inputs), strict=True)
        return tuple(
            result if is_rows else jax.lax.psum(result, axes) for is_rows, result in results
        )

    return jax.shard_map(
        run_and_sum,
        in_specs=(LossInputs(rows, whole, rows, rows, others=rows, other_kernels=whole),),
        out_specs=tuple(rows if is_rows else whole for is_rows in are_rows),
        axis_names=set(axes),
        # Sums of kernels are to be taken once, at the end, not where each chunk's gradient is.
        check_vma=False,
    )


def _in_types_of(likes: Any, parts: Any) -> Any:
    return jax.tree.map(lambda like, part: part.astype(like.dtype), likes, parts)


def _zero() -> TokenSums:
    return TokenSums(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def _add(left: TokenSums, right: TokenSums) -> TokenSums:
    return TokenSums(left.objective + right.objective, left.loss + right.loss)
