"""`PairObjective`: the base of the objectives that compare the two answers of each pair.

Axes: B rows, P pairs of a row.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.finetuning.preference.answers import Answers, split_examples
from jaxgpt.finetuning.preference.objective import PreferenceObjective, ReadAnswers, sums_of_answers
from jaxgpt.training.loss import LossFunction, LossSums


@configclass
class PairObjective(PreferenceObjective):
    """Base of the objectives of pairs (preferred answer, other answer)."""

    def losses(self, chosen: Answers, rejected: Answers) -> jax.Array:
        """Return the loss of each pair, in the shape of its answers."""
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def rewards(self, answers: Answers) -> jax.Array:
        """Return the reward that the policy stands for; of a pair, the preferred one's is to be
        the larger."""
        raise NotImplementedError(f"{type(self).__name__} has no rewards")

    def build_loss_of_answers(self, read: ReadAnswers) -> LossFunction:
        def loss(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            answers_BS, routing = read(params, batch, rng)
            chosen, rejected, exists_BP = split_examples(answers_BS)
            figures = self.figures(chosen, rejected)
            return sums_of_answers(self.losses(chosen, rejected), exists_BP, figures, routing)

        return loss

    def figures(self, chosen: Answers, rejected: Answers) -> dict[str, jax.Array]:
        """Return what is reported of each pair besides its loss.

        `preference_accuracy` is 1 where the preferred answer has the larger reward, 1/2 where both
        rewards are equal: every pair of an untrained policy whose reward is relative to itself.
        `likelihood_accuracy` asks the same of log pi(y | x), without a reference, and
        `likelihood_accuracy_before` of the reference itself.
        """
        margins = self.rewards(chosen) - self.rewards(rejected)
        before = {"likelihood_accuracy_before": _is_larger(chosen.reference, rejected.reference)}
        return {
            "preference_accuracy": _is_larger(margins, jnp.zeros_like(margins)),
            "likelihood_accuracy": _is_larger(chosen.policy, rejected.policy),
            **(before if self.needs_reference else {}),
            "reward_margin": margins,
            "chosen_log_probability": chosen.policy,
            "rejected_log_probability": rejected.policy,
        }


def _is_larger(one: jax.Array, other: jax.Array) -> jax.Array:
    """Return 1 where the one is larger, 1/2 where both are equal, otherwise 0."""
    return (1 + jnp.sign(one - other)) / 2
