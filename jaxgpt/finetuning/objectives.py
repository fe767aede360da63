"""Objectives of fine-tuning that predict tokens of examples; preferences are in preference/."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.data.batch_source import BatchSource
from jaxgpt.data.loader import BatchConfig
from jaxgpt.errors import BadInputError, MismatchError, UsageError
from jaxgpt.evaluation.held_out import HeldOut
from jaxgpt.evaluation.objective import NextToken, Objective, SumsOf
from jaxgpt.evaluation.runner.example_options import ExampleOptions, ExampleScore
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.finetuning.batches import ExampleBatches, HeldOutExamples
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.finetuning.written_answers import write_answers
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.tokenizer.tokenizer import Tokenizer


@configclass
class ExampleObjective(Objective):
    """Base of the objectives that learn from examples."""

    group_size: ClassVar[int] = 1
    """Sequences of an example that it learns from."""
    num_sequences: ClassVar[int] = 1
    """Sequences of an example after `prepare`."""
    weighs_examples: ClassVar[bool] = False
    """Count of held-out data by examples, in place of targets."""
    example_scores: ClassVar[tuple[ExampleScore, ...] | None] = None
    """Further scores of single examples; None: single examples have no scores at all."""

    def with_labels(self, names: tuple[str, ...]) -> Self:
        """Return the objective for the classes that the examples name, if it has any."""
        return self

    def adapt_model(self, model: GptConfig) -> GptConfig:
        """Return the model that learns, given that of the checkpoint.

        Raises:
            MismatchError: it predicts something else than tokens.
        """
        if not isinstance(model.head, LanguageModelHead):
            raise MismatchError(
                f"the checkpoint has a {type(model.head).__name__}, and {type(self).__name__} "
                "needs a model that predicts tokens; begin with such a run"
            )
        return model

    def prepare(
        self, examples: TokenizedExamples, label_names: tuple[str, ...], max_length: int
    ) -> TokenizedExamples:
        """Return examples as the objective learns from them.

        Args:
            examples: `group_size` sequences each.
            label_names: names of the classes, in the order of the examples' numbers.
            max_length: most tokens of a sequence.
        """
        return examples

    def check_examples(self, options: ExampleOptions) -> None:
        """Refuse scores of single examples that this objective does not have.

        Raises:
            UsageError: it has no such scores.
            ConfigError: a package of a score is missing.
        """
        if self.example_scores is None:
            raise UsageError(
                f"--examples: {type(self).__name__} has no scores of single examples; leave it out"
            )
        options.check_scores(type(self).__name__, self.example_scores)

    def score_examples(self, scoring: ExampleScoring) -> TaskResult:
        """Return figures of single examples, what the model does with each among them.

        `check_examples` has allowed the scores that are asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} has no score_examples")

    def make_batches(
        self,
        training: TokenizedExamples,
        held_out: TokenizedExamples,
        batch: BatchConfig,
        seed: int,
    ) -> tuple[BatchSource, HeldOut]:
        """Return batches of prepared examples, to train on and to measure the model on.

        Raises:
            ConfigError: the objective cannot make such batches.
        """
        batches = ExampleBatches(training, batch, seed)
        measured = HeldOutExamples(held_out, batch.sequence_length)
        # One program serves both.
        batches.num_segments = max(batches.num_segments, measured.num_segments)
        return batches, measured

    def make_held_out(self, examples: TokenizedExamples, sequence_length: int) -> HeldOut:
        """Return batches of prepared examples to measure a model on."""
        return HeldOutExamples(examples, sequence_length)


@configclass
class TokenObjective(ExampleObjective, NextToken):
    """Base of the objectives that learn from each target, and are measured by its cross-entropy."""

    example_scores = ("chrf", "rouge")

    def prepare(
        self, examples: TokenizedExamples, label_names: tuple[str, ...], max_length: int
    ) -> TokenizedExamples:
        """Return the examples as they are.

        Raises:
            BadInputError: they have no target, or some of them are not to be learned.
        """
        if "desirable" in examples.labels:
            raise BadInputError(
                f"the examples say which answers are desirable, and {type(self).__name__} learns "
                "from all of them; choose configs/kto.py, or data.form=PromptCompletion()"
            )
        if len(examples) and not examples.num_targets:
            raise BadInputError(
                f"no token of the examples is a target for {type(self).__name__}; choose another "
                "data.form, such as Text() for plain texts, or another objective"
            )
        return examples

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        """Return the figures of text; `target_loss` says what the loss is a mean over."""
        found = NextToken.measure(self, sums_of, batches, tokenizer)
        return {**found, "target_loss": found["loss"]}

    def score_examples(self, scoring: ExampleScoring) -> TaskResult:
        """Return how the answers that the model writes compare with those of the examples."""
        return write_answers(scoring)

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"held-out target loss {result['loss']:.4f}, {result['bits_per_byte']:.4f} bits per "
            f"byte over {result['tokens']:,} targets"
        )


@configclass
class Supervised(TokenObjective):
    """Cross-entropy of the targets of examples: answers, with what ends them, and not prompts.

    The sum over all targets of a batch is divided once by their number, so that an answer of 500
    tokens counts as 500 answers of one, however they are spread over rows and micro-batches.
    """
