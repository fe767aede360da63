"""Log-probability of each target of a batch, without an array of all logits.

Axes: B rows, T tokens of a row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.model.moe.routing_stats import Routing
from jaxgpt.training.chunked_loss import LossInputs
from jaxgpt.training.loss import LossConfig, hidden_states_and_head, token_losses


class TokenLogProbabilities(NamedTuple):
    """Log-probabilities of a batch's targets.

    Attributes:
        values_BT: float32, in nats.
        routing: what the routers did; None for a model without experts.
    """

    values_BT: jax.Array
    routing: Routing | None


def log_probabilities_of(
    model: Any, config: LossConfig
) -> Callable[[Any, Batch, jax.Array | None], TokenLogProbabilities]:
    """Return a function (params, batch, rng) -> log-probabilities; rng None means no dropout.

    Args:
        model: a `Gpt` with the head of a language model.
        config: says in which chunks the logits are computed.
    """

    def score(inputs: LossInputs) -> jax.Array:
        logits = model.config.head.logits(inputs.x, inputs.kernel, model.vocab_size)
        return token_losses(logits.astype(jnp.float32), inputs.targets)[0]

    def log_probabilities(
        params: Any, batch: Batch, rng: jax.Array | None
    ) -> TokenLogProbabilities:
        (x_BTD, kernel), routing = hidden_states_and_head(model, params, batch, rng)
        inputs = LossInputs(x_BTD, kernel, batch.targets_BT, batch.loss_weights_BT)
        losses_BT = config.logits.per_token(score, inputs)
        return TokenLogProbabilities(-losses_BT, routing)

    return log_probabilities
