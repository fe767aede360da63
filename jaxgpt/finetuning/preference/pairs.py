"""`PairObjective`: the base of the objectives that compare the two answers of each pair.

Axes: B rows, P pairs of a row.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.preference.answers import Answers, split_examples
from jaxgpt.finetuning.preference.objective import PreferenceObjective, ReadAnswers, sums_of_answers
from jaxgpt.finetuning.preference.reference import score_answers
from jaxgpt.finetuning.tokenized import TokenizedExamples, answer_place
from jaxgpt.tokenizer.readable import conversation_text, text_without_controls
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums


@configclass
class PairObjective(PreferenceObjective):
    """Base of the objectives of pairs (preferred answer, other answer)."""

    example_scores = ()

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

    def score_examples(self, scoring: ExampleScoring) -> TaskResult:
        """Return how often a model gives the preferred answer the larger log-probability.

        `log_probability_accuracy` compares the sums over an answer's tokens, and
        `token_mean_accuracy` their means, which do not favour the shorter answer. No reference has
        a part in them, so that they compare any two models.
        """
        loaded, rows = scoring.loaded, scoring.rows
        size, plain = scoring.batch_size, LossConfig()
        sums_E2 = score_answers(loaded.model, loaded.params, rows, loaded.mesh, size, plain)
        lengths_E2 = _answer_lengths(rows.examples)
        means_E2 = sums_E2 / lengths_E2
        values = {
            "log_probability_accuracy": (1 + np.sign(sums_E2[:, 0] - sums_E2[:, 1])) / 2,
            "token_mean_accuracy": (1 + np.sign(means_E2[:, 0] - means_E2[:, 1])) / 2,
        }
        samples = [
            {
                **_texts(rows.examples, pair, loaded.tokenizer),
                "log_probabilities": sums.tolist(),
                "num_tokens": lengths.tolist(),
            }
            for pair, (sums, lengths) in enumerate(zip(sums_E2, lengths_E2, strict=True))
        ]
        return scoring.result("pairs", "log-probabilities of both answers", values, samples, 0.5)


def _texts(examples: TokenizedExamples, pair: int, tokenizer: Tokenizer) -> dict[str, str]:
    """Return the prompt and both answers of a pair, as the model reads them."""
    texts = {}
    for name, index in (("chosen", 2 * pair), ("rejected", 2 * pair + 1)):
        ids_L, weights_L = examples.sequence(index)
        start, stop = answer_place(weights_L)
        texts["prompt"] = conversation_text(ids_L[:start].tolist(), tokenizer)
        texts[name] = text_without_controls(ids_L[start:stop], tokenizer)
    return texts


def _answer_lengths(examples: TokenizedExamples) -> np.ndarray:
    """Return the numbers of tokens of both answers of each pair, [E, 2]."""
    counts_S = np.add.reduceat(examples.weights_N > 0, examples.offsets[:-1], dtype=np.int64)
    return counts_S.reshape(-1, 2)


def _is_larger(one: jax.Array, other: jax.Array) -> jax.Array:
    """Return 1 where the one is larger, 1/2 where both are equal, otherwise 0."""
    return (1 + jnp.sign(one - other)) / 2
