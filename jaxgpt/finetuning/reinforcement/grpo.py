"""`Grpo`: group relative policy optimisation, and what its variants change.

The model draws G answers y_1 ... y_G to a prompt x, and a verifier gives each a reward r_i. With
pi_old, the probabilities that the answers were drawn with, and pi, those of the trained model,

    A_i = (r_i - mean(r)) / (std(r) + 1e-4)                                   advantage
    rho_it = pi(y_it | x, y_i<t) / pi_old(y_it | x, y_i<t)                    ratio
    l_it = -min(rho_it A_i, clip(rho_it, 1 - clip_low, 1 + clip_high) A_i)    loss of a token
    L = sum of l_it over all tokens of all answers / number of these tokens

The comparison within a group takes the place of a second model that predicts rewards.

Axes: B rows, one answer each, T tokens of a row, P prompts, G answers to a prompt.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.finetuning.log_probabilities import log_probabilities_of
from jaxgpt.finetuning.reinforcement.checking import Checked, Lesson
from jaxgpt.finetuning.reinforcement.objective import CheckedAnswers
from jaxgpt.finetuning.reinforcement.prompts import ADVANTAGES, DRAWN_LOG_PROBABILITIES
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.moe.routing_stats import Routing
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums

# Added to the standard deviation of a group's rewards, as in TRL.
_LEAST_DEVIATION = 1e-4


@configclass
class Grpo(CheckedAnswers):
    """Group relative policy optimisation, in the form that is usual today: each token counts the
    same, and no reference model pulls the policy back.

    Shao and others 2024 (arXiv:2402.03300), equations 3 and 18 to 20, with beta = 0; the mean over
    tokens in place of a mean of means is that of DAPO (arXiv:2503.14476), section 3.3.
    """

    clip_low: float = 0.2
    """Distance below 1 that a ratio may have before a bad answer is pushed down no further."""
    clip_high: float = 0.2
    """Distance above 1 that a ratio may have before a good answer is pushed up no further."""

    def __post_init__(self) -> None:
        CheckedAnswers.__post_init__(self)
        if not 0 < self.clip_low < 1:
            raise ValueError(f"clip_low must be between 0 and 1, not {self.clip_low}")
        if not self.clip_high > 0:
            raise ValueError(f"clip_high must be positive, not {self.clip_high}")

    # ---- On the host: from rewards to advantages and weights.

    def shape(self, rewards_B: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """Return the rewards that answers are compared by."""
        return rewards_B

    def advantages(self, rewards_PG: np.ndarray) -> np.ndarray:
        """Return A [P, G]."""
        spread_P1 = rewards_PG.std(axis=1, ddof=1, keepdims=True)
        return deviations(rewards_PG) / (spread_P1 + _LEAST_DEVIATION)

    def learns_from(self, rewards_PG: np.ndarray) -> np.ndarray:
        """Return which groups are a part of the loss: bool [P]."""
        return np.ones(len(rewards_PG), bool)

    def token_shares(self, lengths_B: np.ndarray) -> np.ndarray:
        """Return the share [B] of each token of an answer in the loss.

        Args:
            lengths_B: tokens of all answers that are a part of it.
        """
        return np.ones(len(lengths_B)) / lengths_B.sum()

    def learn(self, checked: Checked) -> tuple[Lesson, dict[str, float]]:
        rewards_B, lengths_B, ended_B = checked
        rewards_PG = rewards_B.reshape(-1, self.answers_per_prompt)
        shaped_PG = self.shape(rewards_B, lengths_B).reshape(rewards_PG.shape)
        is_part_B = np.repeat(self.learns_from(rewards_PG), self.answers_per_prompt)
        weights_B = np.zeros(len(rewards_B))
        if is_part_B.any():
            chosen_B = lengths_B[is_part_B]
            # The step divides by the number of tokens.
            weights_B[is_part_B] = self.token_shares(chosen_B) * chosen_B.sum()
        figures = {
            "reward": float(rewards_B.mean()),
            "groups_without_variance": float((np.ptp(rewards_PG, axis=1) == 0).mean()),
            "truncated": float(1 - ended_B.mean()),
            "answer_tokens": float(lengths_B.mean()),
        }
        return Lesson(self.advantages(shaped_PG).ravel(), weights_B), figures

    # ---- On the devices: from log-probabilities to the loss.

    def log_ratios(self, log_ratios_BT: jax.Array, is_answer_BT: jax.Array) -> jax.Array:
        """Return the log-ratio [B, T] of each token that is clipped.

        Args:
            log_ratios_BT: log rho, 0 where there is no answer.
            is_answer_BT: 1 on the targets of an answer, otherwise 0.
        """
        return log_ratios_BT

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        loss.check_plain(type(self).__name__)
        policy = log_probabilities_of(model, loss)

        def loss_of_answers(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            log_p_BT, routing = policy(params, batch, rng)
            return self.sums(log_p_BT, batch, routing)

        return loss_of_answers

    def sums(self, log_p_BT: jax.Array, batch: Batch, routing: Routing | None) -> LossSums:
        """Return the loss of answers, and figures, as sums over their tokens.

        Args:
            log_p_BT: log pi of each target.
            batch: from `fill`.
            routing: what the routers did; None without experts.
        """
        assert batch.extras is not None
        is_answer_BT = (batch.loss_weights_BT > 0).astype(jnp.float32)
        advantages_BT = batch.extras[ADVANTAGES]
        gaps_BT = (log_p_BT - batch.extras[DRAWN_LOG_PROBABILITIES]) * is_answer_BT
        ratios_BT = jnp.exp(self.log_ratios(gaps_BT, is_answer_BT))
        clipped_BT = jnp.clip(ratios_BT, 1 - self.clip_low, 1 + self.clip_high)
        gains_BT = jnp.minimum(ratios_BT * advantages_BT, clipped_BT * advantages_BT)
        loss = -jnp.sum(gains_BT * batch.loss_weights_BT)
        figures = {
            # On the policy's own draws, -log p is an estimate of the entropy without bias.
            "entropy": -log_p_BT,
            "ratio": ratios_BT,
            "clipped": gains_BT < ratios_BT * advantages_BT,
            "drift": jnp.abs(gaps_BT),
            "drift_largest": jnp.max(jnp.abs(gaps_BT), axis=1, keepdims=True),
        }
        sums = LossSums(
            objective=loss,
            loss=jax.lax.stop_gradient(loss),
            weight=jnp.sum(is_answer_BT),
            num_bytes=None,
            figures={
                name: jax.lax.stop_gradient(jnp.sum(values * is_answer_BT))
                for name, values in figures.items()
            },
        )
        if routing is None:
            return sums
        of_rows = routing.sum_rows(jnp.sum(is_answer_BT, axis=1))
        return sums._replace(objective=sums.objective + of_rows.auxiliary, routing=of_rows)


def deviations(rewards_PG: np.ndarray) -> np.ndarray:
    """Return the difference of each reward from the mean of its group."""
    return rewards_PG - rewards_PG.mean(axis=1, keepdims=True)
