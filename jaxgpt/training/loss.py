"""Losses as sums: (sum of weighted losses, sum of weights), divided once by whoever accumulates.

Axes: B rows, T tokens of a row, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.config_roles import Execution
from jaxgpt.model.routing import ROUTING, RoutingSums, published_routing
from jaxgpt.training.loss_head import LossHead, TokenChunks, TokenSums


class LossSums(NamedTuple):
    """What one (micro-)batch contributes; every field adds up, and all but the last are scalars.

    Attributes:
        objective: what is minimised, times weight.
        loss: cross-entropy alone, in nats, times weight.
        weight: sum of loss weights, i.e. the number of predicted tokens.
        num_bytes: bytes of text that the predicted tokens stand for.
        routing: what routers did; None for a model without experts.
    """

    objective: jax.Array
    loss: jax.Array
    weight: jax.Array
    num_bytes: jax.Array
    routing: RoutingSums | None = None


class LossFunction(Protocol):
    """Forward pass and loss of one micro-batch; `rng` None means: no dropout."""

    def __call__(self, params: Any, batch: Batch, rng: jax.Array | None) -> LossSums: ...


@configclass
class LossConfig:
    """What is minimised."""

    z_loss: float = 0.0
    """Weight of the squared log-normaliser (PaLM, arXiv:2204.02311, section 5); 1e-4 is usual."""
    logits: Execution[LossHead] = TokenChunks()
    """Whether all logits are made at once; changes memory and speed only."""

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise ValueError(f"z_loss={self.z_loss} must be 0 (off) or positive")


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0
) -> TokenSums:
    """Cross-entropy in float32 of each target, on targets with weight only.

    Args:
        logits: [..., V]; padding columns of the vocabulary hold -1e30.
        targets: ids [...].
        weights: [...]; weight 0 removes a target from every sum.
        z_loss: weight of the squared log-normaliser in the objective.
    """
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    objective = loss = jnp.sum(losses * weights)
    if z_loss:
        log_normalisers = jax.nn.logsumexp(logits, axis=-1)
        objective = loss + z_loss * jnp.sum(jnp.square(log_normalisers) * weights)
    return TokenSums(objective, jax.lax.stop_gradient(loss))


def with_counts(sums: TokenSums, batch: Batch, bytes_per_token_V: jax.Array) -> LossSums:
    """Add what the predicted tokens are: their weight, and the bytes of text they stand for."""
    weights_BT = batch.loss_weights_BT
    bytes_BT = bytes_per_token_V[batch.targets_BT] * (weights_BT > 0)
    num_bytes = jnp.sum(bytes_BT.astype(jnp.float32))
    return LossSums(sums.objective, sums.loss, jnp.sum(weights_BT), num_bytes)


def language_model_loss(model: Any, bytes_per_token_V: jax.Array, config: LossConfig) -> Any:
    """The `LossFunction` of next-token prediction with `model`, a `Gpt`.

    Every predicted token adds the auxiliary losses that the routers of a model with experts have
    of its row: a sum over tokens like the cross-entropy, and divided with it.
    """

    def score(
        x: jax.Array, head_weights: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> TokenSums:
        logits = model.config.head.logits(x, head_weights, model.vocab_size)
        return cross_entropy(logits, targets, weights, config.z_loss)

    def loss(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
        (x_BTD, head_weights), written = model.apply(
            {"params": params},
            batch.tokens_BT,
            segment_ids_BT=batch.segment_ids_BT,
            positions_BT=batch.positions_BT,
            deterministic=rng is None,
            rngs=None if rng is None else {"dropout": rng},
            mutable=[ROUTING],
            method="hidden_states_and_head",
        )
        tokens = (batch.targets_BT, batch.loss_weights_BT)
        sums = with_counts(
            config.logits.sums(score, x_BTD, head_weights, *tokens), batch, bytes_per_token_V
        )
        routing = published_routing(written.get(ROUTING, {}))
        if routing is None:
            return sums
        of_rows = routing.sum_rows(jnp.sum(batch.loss_weights_BT, axis=1))
        return sums._replace(objective=sums.objective + of_rows.auxiliary, routing=of_rows)

    return loss
