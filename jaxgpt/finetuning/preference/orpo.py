"""`Orpo`: odds ratio preference optimisation."""

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.finetuning.preference.answers import Answers
from jaxgpt.finetuning.preference.pairs import PairObjective

# Below 0 by enough that float32 tells the probability from 1.
_LARGEST_LOG_PROBABILITY = -1e-6


@configclass
class Orpo(PairObjective):
    """Odds ratio preference optimisation: supervised learning and preferences at once, without a
    reference.

        log P(y) = log pi(y | x) / |y|,   odds(y) = P(y) / (1 - P(y))
        L = -log P(y_w) - weight log s(log odds(y_w) - log odds(y_l))

    Hong and others 2024 (arXiv:2403.07691), section 4, equations 3 to 7.
    """

    weight: float = 0.1
    """Weight of the odds ratio against the cross-entropy of the preferred answer, lambda."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be positive, not {self.weight}")

    @property
    def needs_reference(self) -> bool:
        return False

    def losses(self, chosen: Answers, rejected: Answers) -> jax.Array:
        ratios = jax.nn.log_sigmoid(_log_odds(chosen) - _log_odds(rejected))
        return -chosen.per_token().policy - self.weight * ratios

    def rewards(self, answers: Answers) -> jax.Array:
        return self.weight * answers.per_token().policy


def _log_odds(answers: Answers) -> jax.Array:
    mean = jnp.minimum(answers.per_token().policy, _LARGEST_LOG_PROBABILITY)
    # log(1 - exp(x)): each form is exact on its side of -ln 2 (Maechler 2012, "Accurately computing
    # log(1 - exp(-|a|))").
    rest = jnp.where(mean > -jnp.log(2.0), jnp.log(-jnp.expm1(mean)), jnp.log1p(-jnp.exp(mean)))
    return mean - rest
