"""`Ipo`: identity preference optimisation."""

import jax
import jax.numpy as jnp

from jaxgpt.config import configclass
from jaxgpt.finetuning.preference.answers import Answers
from jaxgpt.finetuning.preference.pairs import PairObjective


@configclass
class Ipo(PairObjective):
    """Identity preference optimisation: a margin between the two answers, and no more than that.

        L = (h(y_w) - h(y_l) - 1 / (2 beta))^2

    Azar and others 2023 (arXiv:2310.12036), equation 17, whose tau is beta.
    """

    beta: float = 0.1
    """Strength of the pull towards the reference; the margin is 1 / (2 beta)."""
    per_token: bool = True
    """Log-ratios that are means over an answer's tokens, as in TRL; otherwise sums, as in the
    paper's equation, with which long answers have the larger margins."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, not {self.beta}")

    def losses(self, chosen: Answers, rejected: Answers) -> jax.Array:
        difference = self._log_ratios(chosen) - self._log_ratios(rejected)
        return jnp.square(difference - 1 / (2 * self.beta))

    def rewards(self, answers: Answers) -> jax.Array:
        return self.beta * self._log_ratios(answers)

    def _log_ratios(self, answers: Answers) -> jax.Array:
        return (answers.per_token() if self.per_token else answers).log_ratios
