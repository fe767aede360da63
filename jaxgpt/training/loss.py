"""Losses as sums: (sum of weighted losses, sum of weights), divided once by whoever accumulates.

Axes: B rows, T tokens of a row, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.model.routing import ROUTING, RoutingSums, published_routing


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

    def __post_init__(self) -> None:
        if self.z_loss < 0:
            raise ValueError(f"z_loss={self.z_loss} must be 0 (off) or positive")


def next_token_loss(
    logits_BTV: jax.Array,
    batch: Batch,
    bytes_per_token_V: jax.Array,
    z_loss: float = 0.0,
) -> LossSums:
    """Cross-entropy in float32 of each target, on targets with weight only.

    Args:
        logits_BTV: scores; padding columns of the vocabulary hold -1e30.
        batch: targets and their weights; weight 0 removes a target from every sum.
        bytes_per_token_V: int32, bytes of text per id, for bits per byte.
        z_loss: weight of the mean squared log-normaliser added to the objective.
    """
    logits_BTV = logits_BTV.astype(jnp.float32)
    weights_BT = batch.loss_weights_BT
    loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.targets_BT)
    loss = jnp.sum(loss_BT * weights_BT)
    objective = loss
    if z_loss:
        log_normaliser_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
        objective = loss + z_loss * jnp.sum(jnp.square(log_normaliser_BT) * weights_BT)
    bytes_BT = bytes_per_token_V[batch.targets_BT] * (weights_BT > 0)
    return LossSums(objective, loss, jnp.sum(weights_BT), jnp.sum(bytes_BT.astype(jnp.float32)))


def language_model_loss(model: Any, bytes_per_token_V: jax.Array, config: LossConfig) -> Any:
    """The `LossFunction` of next-token prediction with `model`.

    Every predicted token adds the auxiliary losses that the routers of a model with experts have
    of its row: a sum over tokens like the cross-entropy, and divided with it.
    """

    def loss(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
        (logits_BTV, _), written = model.apply(
            {"params": params},
            batch.tokens_BT,
            segment_ids_BT=batch.segment_ids_BT,
            positions_BT=batch.positions_BT,
            deterministic=rng is None,
            rngs=None if rng is None else {"dropout": rng},
            mutable=[ROUTING],
        )
        sums = next_token_loss(logits_BTV, batch, bytes_per_token_V, config.z_loss)
        routing = published_routing(written.get(ROUTING, {}))
        if routing is None:
            return sums
        of_rows = routing.sum_rows(jnp.sum(batch.loss_weights_BT, axis=1))
        return sums._replace(objective=sums.objective + of_rows.auxiliary, routing=of_rows)

    return loss
