"""The configs of runs that learn from examples; see based_config.py for what they share."""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jax.sharding import Mesh

from jaxgpt.config import configclass, replace
from jaxgpt.errors import BadInputError, ConfigError, UsageError
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.runner.example_options import ExampleOptions
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.finetuning.batches import ExampleBatches, HeldOutExamples, PackedRows
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.examples import Examples, ExamplesConfig, read_examples
from jaxgpt.finetuning.objectives import ExampleObjective, Supervised
from jaxgpt.finetuning.preference.reference import score_answers
from jaxgpt.finetuning.preference.reference_file import with_reference
from jaxgpt.finetuning.reinforcement.prompts import HeldOutPrompts
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.inference.text_generation import HealedPrompt
from jaxgpt.model.layers.adapters import LowRank
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import on_mesh
from jaxgpt.runs.run import Run, open_base
from jaxgpt.runs.sources import HeldOut, Sources
from jaxgpt.runs.tuning.based_config import BasedRunConfig, TuningConfig, earlier_runs
from jaxgpt.tokenizer.chat_template import ChatTemplate, Message, control_ids, stop_ids
from jaxgpt.tokenizer.sequences import NO_ID
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# With fewer in held-out examples, figures depend much on which examples were drawn.
_FEW_TARGETS, _FEW_EXAMPLES = 1_000, 100


@configclass
class FinetuneConfig(TuningConfig):
    """A run that learns from examples, without its model. `configs/sft.py` is one."""

    objective: ExampleObjective = Supervised()
    """Training objective, by which held-out examples are measured, too."""
    data: ExamplesConfig = ExamplesConfig()

    def make_run_config(self, run: Run, fields: dict[str, Any]) -> "FinetuneRunConfig":
        """Return the config of a run; its data are the same."""
        return FinetuneRunConfig(**fields, data=self.data)


@configclass
class FinetuneRunConfig(FinetuneConfig, BasedRunConfig):
    """A run that learns from examples, with its model, as a run folder keeps it."""

    prompt_form: ClassVar[str] = "chat template"

    def with_data(self, names: tuple[str, ...]) -> Self:
        """Return the config with other files of examples."""
        return replace(self, data=replace(self.data, files=names))

    def open(self) -> tuple[Self, Sources]:
        """Read the examples; return the config with the labels of classes and a head for them."""
        examples = self.read_examples()
        objective = self.objective.with_labels(examples.label_names)
        model = objective.adapt_model(self.model)
        config = replace(self, objective=objective, model=model)
        config = config._with_new_tokens(examples.training)
        return config, config.make_sources(examples)

    def _with_new_tokens(self, examples: TokenizedExamples) -> Self:
        """Return the config with an adapter that learns the tokens of the chat template.

        That is: if answers end by one, and the base has never seen any. Their rows of the embedding
        are trained, unless the config says which rows are; if they are not, a warning says so.
        """
        end = self.base_tokenizer.special_ids.get("end", NO_ID)
        is_frozen = self.adapter.has_parameters and not self.model.head.is_new
        if not is_frozen or not all(run.config.reads_documents for run in earlier_runs(self.base)):
            return self
        if not (examples.tokens_N[examples.weights_N > 0] == end).any():
            return self
        adapter = self.adapter
        if isinstance(adapter, LowRank) and adapter.token_ids is None:
            ids = control_ids(self.base_tokenizer)
            logger.info(
                "%s has read documents only: the adapter also trains the rows of the %d tokens of "
                "the chat template (adapter.token_ids)", self.base.run, len(ids),
            )  # fmt: skip
            return replace(self, adapter=replace(adapter, token_ids=ids))
        if end not in adapter.changed_ids:
            logger.warning(
                "%s has read documents only, and adapter.token_ids leaves out the token that ends "
                "an answer: it stays nearly as improbable as it is now. Leave out "
                "adapter.token_ids, begin with a run of configs/sft.py, or train all weights",
                self.base.run,
            )
        return self

    def open_sources(self) -> Sources:
        """Read the examples; see `read_examples` for what it raises."""
        return self.make_sources(self.read_examples())

    def read_examples(self) -> Examples:
        """Read the examples as they are; see `read_examples` for what it raises."""
        return self._read(self.data, self.base_tokenizer, self.batch.sequence_length)

    def make_sources(self, examples: Examples) -> Sources:
        """Pack the examples as the objective learns from them.

        Raises:
            BadInputError: they do not have what it learns from.
        """
        sides = self._prepare(examples, self.batch.sequence_length)
        return self._sources(*sides, self.base_tokenizer)

    def prepare_sources(
        self, sources: Sources, run_dir: Path, heartbeat: Callable[[], None]
    ) -> Sources:
        """Add to each answer its log-probability under the base; see `rows_bring_reference`."""
        if not self.rows_bring_reference:
            return sources
        batches, held_out = sources.batches, sources.held_out
        assert isinstance(batches, ExampleBatches)
        assert isinstance(held_out, HeldOutExamples)
        score = functools.partial(self._score, make_mesh(self.mesh), heartbeat)
        sides = batches.rows, held_out.rows
        training, measured = with_reference(
            sides, run_dir, score, self.base.fingerprint, is_kept=True
        )
        return self._sources(training, measured, sources.tokenizer)

    def prepare_held_out(
        self, held_out: HeldOut, run_dir: Path, mesh: Mesh, is_kept: bool = False
    ) -> HeldOut:
        """Add to each answer its log-probability under the base, where the objective needs it.

        Args:
            held_out: as opened.
            run_dir: folder that may have the log-probabilities.
            mesh: of all devices.
            is_kept: whether to write there what it does not have.

        Raises:
            MismatchError: the run folder does not have it, and the base is not what it was.
        """
        if not self.objective.needs_reference:
            return held_out
        assert isinstance(held_out, HeldOutExamples)
        score = functools.partial(self._score, mesh, lambda: None)
        (examples,) = with_reference(
            (held_out.rows,), run_dir, score, self.base.fingerprint, is_kept
        )
        return HeldOutExamples(examples, held_out.rows.sequence_length)

    def check_examples(self, options: ExampleOptions) -> None:
        if options.examples is not None:
            self.objective.check_examples(options)

    def score_examples(
        self,
        loaded: LoadedModel,
        held_out: HeldOut,
        options: ExampleOptions,
        batch_size: int,
        silent: bool,
    ) -> list[TaskResult]:
        """Return the figures of the first held-out examples, if they are asked for."""
        if options.examples is None:
            return []
        assert isinstance(held_out, HeldOutExamples | HeldOutPrompts)
        examples, length = held_out.examples, held_out.rows.sequence_length
        chosen = examples.select(np.arange(min(options.examples, len(examples))))

        def read_training() -> TokenizedExamples:
            return self._prepare(self._read(self.data, loaded.tokenizer, length), length)[0]

        rows = PackedRows(chosen, length)
        scoring = ExampleScoring(loaded, rows, options, batch_size, read_training, silent)
        return [self.objective.score_examples(scoring)]

    def keep_for_evaluation(self, folder: Path, tokenizer: Tokenizer, mesh: Mesh) -> None:
        """Write the log-probabilities of held-out answers under the base."""
        if not self.objective.needs_reference:
            return
        length = self.batch.sequence_length
        try:
            held_out, _ = self.open_held_out(None, "val", length, tokenizer, self.base.run)
        except (UsageError, BadInputError) as error:
            logger.warning(
                "%s. So the model without its adapter needs %s when it is evaluated",
                error, self.base.run,
            )  # fmt: skip
            return
        self.prepare_held_out(held_out, folder, mesh, is_kept=True)

    def _score(self, mesh: Mesh, heartbeat: Callable[[], None], rows: PackedRows) -> np.ndarray:
        """Return the log-probabilities of both answers of each example under the base, [E, 2]."""
        base = open_base(self.base)
        micro_batch = self.batch.global_batch_size // self.batch.num_micro_batches
        with on_mesh(mesh, self.sharding):
            params = base.restore_params(self.base.step, mesh)
            model = base.build_model()
            return score_answers(model, params, rows, mesh, micro_batch, self.loss, heartbeat)

    def _sources(
        self, training: TokenizedExamples, held: TokenizedExamples, tokenizer: Tokenizer
    ) -> Sources:
        batches, held_out = self.objective.make_batches(training, held, self.batch, self.seed)
        number, few, noun = held.num_targets, _FEW_TARGETS, "targets"
        if self.objective.weighs_examples:
            number, few, noun = len(held), _FEW_EXAMPLES, "examples"

        def warn(num_epochs: float) -> list[str]:
            if number >= few:
                return []
            return [
                f"{number:,} {noun} are held out; with fewer than some {few:,} the figures depend "
                "much on which examples were drawn: give more, or a larger data.held_out_share"
            ]

        return Sources(batches, held_out, tokenizer, warn)

    def open_held_out(
        self, data: str | None, split: str, length: int, tokenizer: Tokenizer, owner: str
    ) -> tuple[HeldOut, str]:
        """Read the held-out examples, or all examples of a file.

        Args:
            data: a file of examples, all of which are read; None: those of the run.
            split: "val" for held-out examples, "train" for the others.
            length: tokens of a row.
            tokenizer: the run's.
            owner: the run, for messages.

        Raises:
            BadInputError: there are none.
        """
        config, name = self.data, ", ".join(self.data.files)
        if data is not None:
            config, name = replace(config, files=(data,), held_out_share=0.0), data
        training, held_out = self._prepare(self._read(config, tokenizer, length), length)
        side = training if data is not None or split == "train" else held_out
        if not len(side):
            raise BadInputError(
                f"{owner} has no held-out example of {name}; choose others by --data"
            )
        return self.objective.make_held_out(side, length), name

    def encode_conversation(
        self, tokenizer: Tokenizer, messages: Sequence[Message]
    ) -> HealedPrompt:
        """Return the ids after which the model answers a conversation."""
        return HealedPrompt(ChatTemplate(tokenizer).render_prompt(messages).tolist(), b"", 0)

    def stop_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the ids that end a message or a text."""
        return stop_ids(tokenizer)

    def _read(self, config: ExamplesConfig, tokenizer: Tokenizer, length: int) -> Examples:
        group_size = self.objective.group_size
        examples = read_examples(config, tokenizer, self._max_length(length), "--data")
        if examples.training.group_size != group_size:
            raise ConfigError(
                f"--data {', '.join(config.files)}: each example has "
                f"{examples.training.group_size} sequences, and the objective "
                f"{type(self.objective).__name__} learns from {group_size}; choose an objective "
                "or a data.form that fits"
            )
        return examples

    def _prepare(
        self, examples: Examples, length: int
    ) -> tuple[TokenizedExamples, TokenizedExamples]:
        names, max_length = examples.label_names, self._max_length(length)
        prepare = self.objective.prepare
        training = prepare(examples.training, names, max_length)
        return training, prepare(examples.held_out, names, max_length)

    def _max_length(self, length: int) -> int:
        """Return the most tokens of a sequence, so that an example fits into a row.

        Sequences of one example share a row, and the last token of each takes no place.
        """
        return length // self.objective.num_sequences + 1
