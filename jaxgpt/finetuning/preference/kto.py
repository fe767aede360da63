"""`Kto`: Kahneman-Tversky optimisation, from single answers that are good or bad.

Axes: B rows, P examples of a row.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.preference.answers import Answers, split_examples
from jaxgpt.finetuning.preference.mismatched import add_mismatched
from jaxgpt.finetuning.preference.objective import PreferenceObjective, ReadAnswers, sums_of_answers
from jaxgpt.finetuning.segments import sequence_values
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.training.loss import LossFunction, LossSums

# Name of what a batch says about each answer: 1 where it is desirable, otherwise 0.
DESIRABLE = "desirable"


@configclass
class Kto(PreferenceObjective):
    """Kahneman-Tversky optimisation: no pairs, only answers that are desirable or not.

        L = desirable_weight (1 - s(beta (h(y) - z0)))        y is desirable
        L = undesirable_weight (1 - s(beta (z0 - h(y))))      it is not

    Ethayarajh and others 2024 (arXiv:2402.01306), section 4.1, equation 8. z0 estimates the
    divergence of policy and reference: max(0, mean of h over answers to other prompts), without a
    gradient. The paper averages over the examples that are computed together. Here these are the
    examples of a row, so that z0 depends neither on micro-batches nor on devices.
    """

    group_size: ClassVar[int] = 1
    beta: float = 0.1
    """Factor of the reward; the larger, the sooner an answer counts as good or bad enough."""
    desirable_weight: float = 1.0
    """Weight of desirable answers, lambda_D; the paper advises a ratio to the other weight, times
    the ratio of their counts, from 1 to 4/3."""
    undesirable_weight: float = 1.0
    """Weight of undesirable answers, lambda_U."""

    def __post_init__(self) -> None:
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

    def prepare(
        self, examples: TokenizedExamples, label_names: tuple[str, ...], max_length: int
    ) -> TokenizedExamples:
        """Return the examples with answers to other prompts.

        Raises:
            BadInputError: nothing says which answers are desirable.
        """
        if DESIRABLE not in examples.labels:
            raise BadInputError(
                "Kto learns from answers that are desirable or not; give rows with prompt, "
                "completion and label (true or false), or choose another objective"
            )
        return add_mismatched(examples, max_length)

    def losses(self, answers: Answers, is_desirable: jax.Array, z0: jax.Array) -> jax.Array:
        """Return the loss of each answer.

        Args:
            answers: arrays [B, P].
            is_desirable: 1 or 0 for each.
            z0: [B, 1].
        """
        difference = self.rewards(answers) - self.beta * jax.lax.stop_gradient(z0)
        good = self.desirable_weight * jax.nn.sigmoid(-difference)
        bad = self.undesirable_weight * jax.nn.sigmoid(difference)
        return jnp.where(is_desirable > 0, good, bad)

    def rewards(self, answers: Answers) -> jax.Array:
        """Return beta h(y)."""
        return self.beta * answers.log_ratios

    def build_loss_of_answers(self, read: ReadAnswers) -> LossFunction:
        def loss(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            answers_BS, routing = read(params, batch, rng)
            answers, mismatched, exists_BP = split_examples(answers_BS)
            assert batch.extras is not None
            is_desirable_BS = sequence_values(
                batch.extras[DESIRABLE],
                batch.segment_ids_BT,
                batch.positions_BT,
                answers_BS.policy.shape[1],
            )
            is_desirable_BP = is_desirable_BS[:, 0::2]
            z0_B1 = divergence(mismatched, exists_BP)
            losses_BP = self.losses(answers, is_desirable_BP, z0_B1)
            figures = self._figures(answers, is_desirable_BP, z0_B1)
            return sums_of_answers(losses_BP, exists_BP, figures, routing)

        return loss

    def _figures(
        self, answers: Answers, is_desirable_BP: jax.Array, z0_B1: jax.Array
    ) -> dict[str, jax.Array]:
        """Return what is reported of each answer; it is right where h(y) is on its side of z0."""
        side = jnp.where(is_desirable_BP > 0, 1, -1)
        surplus = answers.log_ratios - z0_B1
        return {
            "preference_accuracy": (1 + jnp.sign(side * surplus)) / 2,
            "reward_margin": side * self.beta * surplus,
            "divergence": jnp.broadcast_to(z0_B1, surplus.shape),
        }


def divergence(mismatched: Answers, exists_BP: jax.Array) -> jax.Array:
    """Return z0 [B, 1] from each row's answers [B, P] to other prompts."""
    number_B1 = jnp.maximum(jnp.sum(exists_BP, axis=1, keepdims=True), 1)
    sum_B1 = jnp.sum(mismatched.log_ratios * exists_BP, axis=1, keepdims=True)
    return jnp.maximum(sum_B1 / number_B1, 0)
