"""`CheckedAnswers`: what the objectives share that learn from checked answers of the model itself.

Axes: B rows, T tokens of a row, N most tokens of an answer, V vocabulary.
"""

import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.config import configclass, replace
from jaxgpt.data.batch_source import BatchSource
from jaxgpt.data.loader import BatchConfig
from jaxgpt.errors import BadInputError, ConfigError
from jaxgpt.evaluation.held_out import HeldOut
from jaxgpt.evaluation.objective import Policy, SumsOf
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.statistics import proportion_interval
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.objectives import ExampleObjective
from jaxgpt.finetuning.reinforcement.checking import (
    Checked,
    Lesson,
    check,
    ends_answers,
    with_answers,
)
from jaxgpt.finetuning.reinforcement.prompts import HeldOutPrompts, PromptBatches
from jaxgpt.finetuning.reinforcement.verifiers import ExactMatch, Verifier
from jaxgpt.finetuning.tokenized import TokenizedExamples, answer_place
from jaxgpt.finetuning.written_answers import write_answers
from jaxgpt.inference.sampling import row_keys
from jaxgpt.inference.whole_answers import GREEDY, Answers, answer_prompts
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums
from jaxgpt.training.step import TrainingStep

logger = logging.getLogger(__name__)


@configclass
class CheckedAnswers(ExampleObjective):
    """Base of the objectives that learn from answers of the model, which a verifier checks."""

    weighs_examples: ClassVar[bool] = True
    example_scores = ("chrf", "rouge")

    verifier: Verifier = ExactMatch()
    """Rule that checks an answer; its result is the reward."""
    answers_per_prompt: int = 8
    """Answers that are drawn to each prompt and compared with each other, G."""
    max_answer_tokens: int = 256
    """Most tokens of an answer, with the one that ends it; batch.sequence_length has room for the
    prompt and these."""

    def __post_init__(self) -> None:
        for name, least in (("answers_per_prompt", 2), ("max_answer_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    def learn(self, checked: Checked) -> tuple[Lesson, dict[str, float]]:
        """Return what a step learns from checked answers, and figures of the step.

        Args:
            checked: the answers to one prompt side by side.
        """
        raise NotImplementedError(f"{type(self).__name__} has no learn")

    def adapt_model(self, model: GptConfig) -> GptConfig:
        """Return the model without dropout, as none was there when it answered."""
        return replace(super().adapt_model(model), dropout=Dropout())

    def prepare(
        self, examples: TokenizedExamples, label_names: tuple[str, ...], max_length: int
    ) -> TokenizedExamples:
        """Return the examples whose prompts leave room for an answer.

        Raises:
            ConfigError: none can.
            BadInputError: none does, or there is no right answer to compare with.
        """
        room = max_length - self.max_answer_tokens
        if room < 1:
            raise ConfigError(
                f"objective.max_answer_tokens={self.max_answer_tokens} leaves no room for a prompt "
                f"in rows of {max_length - 1} tokens; lower it, or raise batch.sequence_length as "
                "far as the base allows"
            )
        if not len(examples):
            return examples
        if not examples.num_targets:
            raise BadInputError(
                f"the examples have no answers, and {type(self).__name__} compares with right ones;"
                " give rows of a prompt and its answer"
            )
        places = [answer_place(examples.sequence(each)[1]) for each in range(len(examples))]
        starts, ends = np.array(places).T
        # An answer that reaches the end of a row has lost its own: nothing would equal it.
        is_cut = (ends >= max_length) & (starts < ends)
        if number := int(is_cut.sum()):
            logger.warning(
                "%d examples of %d are left out: their answers are cut at %d tokens, and the rest "
                "would be taken for the right answer",
                number, len(examples), max_length,
            )  # fmt: skip
        fitting = np.flatnonzero((starts <= room) & ~is_cut)
        if not len(fitting):
            raise BadInputError(
                f"no prompt of {len(examples):,} leaves room for an answer of "
                f"{self.max_answer_tokens} tokens in rows of {max_length - 1}; lower "
                "objective.max_answer_tokens"
            )
        if number := int(((starts > room) & ~is_cut).sum()):
            logger.warning(
                "%d prompts of %d are left out: they have more than %d tokens, and an answer may "
                "have %d",
                number, len(examples), room, self.max_answer_tokens,
            )  # fmt: skip
        return examples.select(fitting)

    def make_batches(
        self,
        training: TokenizedExamples,
        held_out: TokenizedExamples,
        batch: BatchConfig,
        seed: int,
    ) -> tuple[BatchSource, HeldOut]:
        """Return batches of prompts; see `ExampleObjective`."""
        size, group_size = batch.global_batch_size, self.answers_per_prompt
        if size % group_size:
            raise ConfigError(
                f"batch.global_batch_size={size} is not divisible by objective.answers_per_prompt="
                f"{group_size}; all answers to a prompt are in one batch, so choose a multiple"
            )
        batches = PromptBatches(training, batch, seed, group_size)
        return batches, self.make_held_out(held_out, batch.sequence_length)

    def make_held_out(self, examples: TokenizedExamples, sequence_length: int) -> HeldOut:
        return HeldOutPrompts(examples, sequence_length)

    def wrap_step(self, step: TrainingStep, policy: Policy) -> TrainingStep:
        """Return the step on batches of prompts; see `with_answers`.

        Raises:
            ConfigError: the run has several hosts.
        """
        if jax.process_count() > 1:
            raise ConfigError(
                f"{type(self).__name__} checks answers on one host, and this run has "
                f"{jax.process_count()}; start it on one, which may have any number of devices"
            )
        return with_answers(step, policy, self.verifier, self.max_answer_tokens, self.learn)

    def build_held_out_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        """Return the likeliest answers, as figures that `measure` checks."""
        is_end_V = ends_answers(bytes_per_token_V)

        def answer(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            lengths_B = jnp.sum(batch.segment_ids_BT, axis=1)
            answers = answer_prompts(
                model,
                params,
                batch.tokens_BT,
                # A row of padding reads one token, and its answer is not looked at.
                jnp.maximum(lengths_B, 1),
                is_end_V,
                self.max_answer_tokens,
                row_keys(0, jnp.zeros_like(lengths_B)),
                GREEDY,
            )
            weight = jnp.sum(lengths_B > 0).astype(jnp.float32)
            zero = jnp.zeros_like(weight)
            return LossSums(zero, zero, weight, None, figures=answers._asdict())

        return answer

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        """Return the mean reward of the likeliest answers, with a 95% interval; see `Objective`.

        The loss is what the mean reward lacks of 1.
        """
        rewards, lengths, ended = [], [], []
        for batch in batches:
            figures = sums_of(batch).figures
            assert figures is not None
            answers = Answers(**{name: np.asarray(part) for name, part in figures.items()})
            checked = check(batch, answers, self.verifier, tokenizer)
            exists_B = batch.segment_ids_BT[:, 0] > 0
            rewards += checked.rewards_B[exists_B].tolist()
            lengths += checked.lengths_B[exists_B].tolist()
            ended += checked.ended_B[exists_B].tolist()
        if not rewards:
            raise ValueError("the batches have no prompt")
        reward = float(np.mean(rewards))
        low, high = proportion_interval(reward, len(rewards))
        return {
            "loss": 1 - reward,
            "reward": reward,
            "reward_low": low,
            "reward_high": high,
            "truncated": 1 - float(np.mean(ended)),
            "answer_tokens": float(np.mean(lengths)),
            "examples": len(rewards),
        }

    def score_examples(self, scoring: ExampleScoring) -> TaskResult:
        """Return how the answers that the model writes compare with the right ones."""
        return write_answers(scoring)

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"held-out reward {result['reward']:.3f} ({result['reward_low']:.3f} to "
            f"{result['reward_high']:.3f}) over {result['examples']:,} prompts"
        )
