"""Losses as sums: (sum of weighted losses, sum of weights), divided once after accumulation.

Axes: B rows, T tokens of a row, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.config import Execution, configclass
from jaxgpt.errors import ConfigError
from jaxgpt.model.moe.routing_stats import ROUTING, Routing, RoutingSums, routing_of
from jaxgpt.runtime.target import compile_target
from jaxgpt.training.chunked_loss import LinearCrossEntropy, LossInputs, TokenChunks, TokenSums
from jaxgpt.training.cross_entropy_kernel import (
    KernelSettings,
    runs_cross_entropy_kernel,
    with_gradient_kernel,
)

# A logit that is never reached: exp(_LEAST - x) is 0 for every x.
_LEAST = -3e38


class LossSums(NamedTuple):
    """Sums of one (micro-)batch; every field adds up, and all but the last two are scalars.

    Attributes:
        objective: minimised loss, times weight.
        loss: cross-entropy alone, in nats, times weight.
        weight: sum of loss weights, i.e. the number of predicted tokens.
        num_bytes: bytes of text that the predicted tokens stand for; None: no text is predicted.
        routing: statistics of the routers; None for a model without experts.
        figures: further sums of an objective by name, each times weight; None: it has none.
    """

    objective: jax.Array
    loss: jax.Array
    weight: jax.Array
    num_bytes: jax.Array | None
    routing: RoutingSums | None = None
    figures: dict[str, jax.Array] | None = None


class LossFunction(Protocol):
    """Forward pass and loss of one micro-batch; `rng` None means no dropout."""

    def __call__(self, params: Any, batch: Batch, rng: jax.Array | None) -> LossSums: ...


@configclass
class LossConfig:
    """Training loss."""

    z_loss: float = 0.0
    """Weight of the squared log-normaliser (PaLM, arXiv:2204.02311, section 5); 1e-4 is usual."""
    logits: Execution[LinearCrossEntropy] = TokenChunks()
    """Computation of the logits, in chunks or all at once; changes memory and speed only."""
    round_logits: Execution[bool] = False
    """Rounding of the logits to the compute dtype, as under PyTorch's autocast; half of their bytes
    on a GPU."""

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise ValueError(f"z_loss={self.z_loss} must be 0 (off) or positive")

    def check_plain(self, objective: str) -> None:
        """Check that nothing is set that only next-token prediction has.

        Raises:
            ConfigError: z_loss or round_logits is set; the message names `objective`.
        """
        if self.z_loss:
            raise ConfigError(
                f"loss.z_loss={self.z_loss}: {objective} has no such term; set it to 0"
            )
        if self.round_logits:
            raise ConfigError(
                f"loss.round_logits=True: {objective} needs float32 logits; set it to False"
            )


@jax.named_scope("cross_entropy")
def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0
) -> TokenSums:
    """Return the cross-entropy in float32 of each target, on targets with weight only.

    Args:
        logits: [..., V]; padding columns of the vocabulary hold -1e30.
        targets: ids [...].
        weights: [...]; weight 0 removes a target from every sum.
        z_loss: weight of the squared log-normaliser in the objective.
    """
    losses, log_normalisers = token_losses(logits.astype(jnp.float32), targets)
    objective = loss = jnp.sum(losses * weights)
    if z_loss:
        objective = loss + z_loss * jnp.sum(jnp.square(log_normalisers) * weights)
    return TokenSums(objective, jax.lax.stop_gradient(loss))


@jax.custom_vjp
def token_losses(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `log_normaliser - logit of the target` and the log-normalisers, both [...].

    Automatic differentiation of the target's logit is a scatter into an array as large as the
    logits, on a GPU one more pass over them, and one for its zeros.
    """
    log_normalisers = log_sum_exp(logits)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_normalisers - target_logits, log_normalisers


def token_losses_forward(logits: jax.Array, targets: jax.Array) -> Any:
    losses, log_normalisers = token_losses(logits, targets)
    return (losses, log_normalisers), (logits, targets, log_normalisers)


def token_losses_backward(saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> Any:
    logits, targets, log_normalisers = saved
    dlosses, dnormalisers = cotangents
    probabilities = jnp.exp(logits - log_normalisers[..., None])
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    drawn = jnp.where(is_target, dlosses[..., None], 0)
    return probabilities * (dlosses + dnormalisers)[..., None] - drawn, None


token_losses.defvjp(token_losses_forward, token_losses_backward)


def log_sum_exp(logits: jax.Array) -> jax.Array:
    """Return `log sum_v exp(logits)` over the last axis, in one pass over memory on a GPU.

    Two partial results (m, s), which stand for s * exp(m), are joined at their larger m (Milakov
    and Gimelshein 2018, arXiv:1805.02867, algorithm 3). On a CPU, where exponentials count and not
    bytes, the maximum is found first.
    """
    if compile_target().is_cpu:
        return jax.nn.logsumexp(logits, axis=-1)

    def join(left: Any, right: Any) -> Any:
        (left_largest, left_sum), (right_largest, right_sum) = left, right
        largest = jnp.maximum(left_largest, right_largest)
        total = left_sum * jnp.exp(left_largest - largest)
        return largest, total + right_sum * jnp.exp(right_largest - largest)

    # Below every logit and finite: the difference of two infinities would be NaN.
    start = (jnp.float32(_LEAST), jnp.float32(0))
    largest, total = jax.lax.reduce(
        (logits, jnp.ones_like(logits)), start, join, (logits.ndim - 1,)
    )
    return largest + jnp.log(total)


def with_counts(sums: TokenSums, batch: Batch, bytes_per_token_V: jax.Array) -> LossSums:
    """Add the weight of the predicted tokens, and the bytes of text that they stand for."""
    weights_BT = batch.loss_weights_BT
    bytes_BT = bytes_per_token_V[batch.targets_BT] * (weights_BT > 0)
    num_bytes = jnp.sum(bytes_BT.astype(jnp.float32))
    return LossSums(sums.objective, sums.loss, jnp.sum(weights_BT), num_bytes)


def language_model_loss(model: Any, bytes_per_token_V: jax.Array, config: LossConfig) -> Any:
    """Return the `LossFunction` of next-token prediction with `model`, a `Gpt`.

    With experts, each predicted token adds the auxiliary losses of its row's routing: a sum over
    tokens like the cross-entropy, divided with it.
    """

    def score(inputs: LossInputs) -> TokenSums:
        head, vocab_size = model.config.head, model.vocab_size
        x, head_weights, targets, weights, *_ = inputs
        if head.soft_cap is None and runs_cross_entropy_kernel():
            logits = head.multiply(x, head_weights, config.round_logits)
            settings = KernelSettings(config.z_loss, vocab_size, logits.dtype, x.dtype)

            def sums(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> TokenSums:
                logits = head.pad(logits, vocab_size)
                return cross_entropy(logits, targets, weights, config.z_loss)

            return with_gradient_kernel(settings, sums, logits, targets, weights)
        logits = head.logits(x, head_weights, vocab_size, config.round_logits)
        return cross_entropy(logits, targets, weights, config.z_loss)

    def loss(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
        (x_BTD, head_weights), routing = hidden_states_and_head(model, params, batch, rng)
        inputs = LossInputs(x_BTD, head_weights, batch.targets_BT, batch.loss_weights_BT)
        sums = with_counts(config.logits.sums(score, inputs), batch, bytes_per_token_V)
        return with_routing(sums, routing, batch)

    return loss


def hidden_states_and_head(
    model: Any, params: Any, batch: Batch, rng: jax.Array | None
) -> tuple[tuple[jax.Array, jax.Array], Routing | None]:
    """Return the hidden states of a batch and the head's weights, and what the routers did.

    Args:
        model: a `Gpt`.
        params: its parameters.
        batch: a (micro-)batch.
        rng: key of dropout; None: there is none.
    """
    both, written = model.apply(
        {"params": params},
        batch.tokens_BT,
        segment_ids_BT=batch.segment_ids_BT,
        positions_BT=batch.positions_BT,
        deterministic=rng is None,
        rngs=None if rng is None else {"dropout": rng},
        mutable=[ROUTING],
        method="hidden_states_and_head",
    )
    return both, routing_of(written)


def with_routing(sums: LossSums, routing: Routing | None, batch: Batch) -> LossSums:
    """Add the auxiliary losses of the routers, if there are any, for each predicted token."""
    if routing is None:
        return sums
    of_rows = routing.sum_rows(jnp.sum(batch.loss_weights_BT, axis=1))
    return sums._replace(objective=sums.objective + of_rows.auxiliary, routing=of_rows)
