"""The config of a fine-tuning run: a recipe that a file defines, completed by a checkpoint.

A file such as `configs/sft.py` defines a `FinetuneConfig`, which has no model: that comes with the
checkpoint. `complete` joins both into the `FinetuneRunConfig` of a run.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import configclass, replace
from jaxgpt.errors import BadInputError, ConfigError
from jaxgpt.finetuning.batches import ExampleBatches, HeldOutExamples, PackedRows
from jaxgpt.finetuning.examples import Examples, ExamplesConfig, read_examples
from jaxgpt.finetuning.objectives import ExampleObjective, Supervised
from jaxgpt.finetuning.preference.reference import score_answers
from jaxgpt.finetuning.preference.reference_file import with_reference
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.inference.text_generation import HealedPrompt
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import on_mesh
from jaxgpt.runs.adapter_params import merge_into, own_parameters
from jaxgpt.runs.config import RunConfig, RunSettings
from jaxgpt.runs.run import BaseCheckpoint, open_base, open_run, read_step_fingerprint
from jaxgpt.runs.sources import HeldOut, Sources
from jaxgpt.tokenizer.chat_template import USER, ChatTemplate, Message
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.state import make_parameters

# With fewer in held-out examples, figures depend much on which examples were drawn.
_FEW_TARGETS, _FEW_EXAMPLES = 1_000, 100


@configclass
class FinetuneConfig(RunSettings):
    """A fine-tuning run, without its model. `configs/sft.py` is one."""

    objective: ExampleObjective = Supervised()
    """Training objective, by which held-out examples are measured, too."""
    adapter: Adapter = NO_ADAPTER
    """Adapter that is trained, and saved alone, in place of all weights."""
    data: ExamplesConfig = ExamplesConfig()
    num_epochs: float | None = 3.0
    """Passes over the training examples, which decide schedule.num_steps; None: it stands as it
    is."""

    def __post_init__(self) -> None:
        RunSettings.__post_init__(self)
        if self.num_epochs is not None and not 0 < self.num_epochs < math.inf:
            raise ValueError(f"num_epochs={self.num_epochs} must be positive, or None")


@configclass
class FinetuneRunConfig(FinetuneConfig, RunConfig):
    """A fine-tuning run with its model, as a run folder keeps it."""

    measures_start: ClassVar[bool] = True

    base: BaseCheckpoint

    def open_sources(self) -> Sources:
        """Read the examples; see `read_examples` for what it raises."""
        return self.make_sources(self.read_examples())

    def read_examples(self) -> Examples:
        """Read the examples as they are; see `read_examples` for what it raises."""
        return self._read(self.data, self._tokenizer, self.batch.sequence_length)

    def make_sources(self, examples: Examples) -> Sources:
        """Pack the examples as the objective learns from them.

        Raises:
            BadInputError: they do not have what it learns from.
        """
        sides = self._prepare(examples, self.batch.sequence_length)
        return self._sources(*sides, self._tokenizer)

    @property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.base.run)

    def prepare_sources(self, sources: Sources, run_dir: Path) -> Sources:
        """Add to each answer its log-probability under the base, where the objective needs it.

        With an adapter, each step computes it.
        """
        if not self.objective.needs_reference or self.adapter.has_parameters:
            return sources
        batches, held_out = sources.batches, sources.held_out
        assert isinstance(batches, ExampleBatches)
        assert isinstance(held_out, HeldOutExamples)
        score = functools.partial(self._score, make_mesh(self.mesh))
        sides = batches.rows, held_out.rows
        training, measured = with_reference(sides, run_dir, score, is_kept=True)
        return self._sources(training, measured, sources.tokenizer)

    def prepare_held_out(self, held_out: HeldOut, run_dir: Path, mesh: Mesh) -> HeldOut:
        """Add to each answer its log-probability under the base, where the objective needs it.

        Raises:
            MismatchError: the run folder does not have it, and the base is not what it was.
        """
        if not self.objective.needs_reference:
            return held_out
        assert isinstance(held_out, HeldOutExamples)
        score = functools.partial(self._score, mesh)
        (examples,) = with_reference((held_out.rows,), run_dir, score, is_kept=False)
        return HeldOutExamples(examples, held_out.rows.sequence_length)

    def _score(self, mesh: Mesh, rows: PackedRows) -> np.ndarray:
        """Return the log-probabilities of both answers of each example under the base, [E, 2]."""
        base = open_base(self.base)
        micro_batch = self.batch.global_batch_size // self.batch.num_micro_batches
        with on_mesh(mesh, self.sharding):
            params = base.restore_params(self.base.step, mesh)
            model = base.build_model()
            return score_answers(model, params, rows, mesh, micro_batch, self.loss)

    def _sources(
        self, training: TokenizedExamples, held: TokenizedExamples, tokenizer: Tokenizer
    ) -> Sources:
        batches = ExampleBatches(training, self.batch, self.seed)
        held_out = HeldOutExamples(held, self.batch.sequence_length)
        # One program serves both.
        batches.num_segments = max(batches.num_segments, held_out.num_segments)
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
        return HeldOutExamples(side, length), name

    def build_model(self, vocab_size: int) -> Gpt:
        """Return the model that is trained, with its adapter."""
        return self.model.build(vocab_size, self.adapter)

    def make_parameters(self, model: Gpt, abstract: Any, mesh: Mesh) -> Any:
        """Read the parameters of the checkpoint that the run begins with, or draw an adapter's.

        A head that the checkpoint does not have is initialised instead.

        Raises:
            MismatchError: the checkpoint is not what it was.
        """
        if self.adapter.has_parameters:
            return make_parameters(model, abstract, self.seed)
        base = open_base(self.base)
        if base.config.model.head == self.model.head:
            return base.read_params(self.base.step, abstract)
        params = base.restore_params(self.base.step, mesh)
        params |= make_parameters(model, {"head": abstract["head"]}, self.seed)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return jax.device_put({name: params[name] for name in abstract}, shardings)

    def read_frozen(self, abstract: Any) -> Any:
        """Read the parameters that an adapter leaves as they are; raise as `make_parameters`."""
        return open_base(self.base).read_params(self.base.step, abstract) if abstract else {}

    def read_params(
        self, checkpoints: Checkpoints, step: int, vocab_size: int, abstract: Any
    ) -> Any:
        """Read a checkpoint; an adapter's is merged into its base.

        Raises:
            MismatchError: it holds other parameters, or the base is not what it was.
            NoCheckpointError: the base is gone.
        """
        if not self.adapter.has_parameters:
            return checkpoints.restore_params(step, abstract)
        model = self.build_model(vocab_size)
        own = checkpoints.restore_params(step, own_parameters(model, self.sharding, abstract))
        return merge_into(model, own, open_base(self.base), self.base.step, abstract)

    def encode_prompt(self, tokenizer: Tokenizer, text: str) -> HealedPrompt:
        """Return the ids of a conversation in which a person has typed `text`."""
        ids = ChatTemplate(tokenizer).render_prompt([Message(USER, text)])
        return HealedPrompt(ids.tolist(), b"", 0)

    def stop_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the ids that end a message or a text."""
        return (tokenizer.special_ids["end"], tokenizer.eos_id)

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


def complete(config: FinetuneConfig, checkpoint: str, step_name: str) -> FinetuneRunConfig:
    """Return the config of a run that begins with a checkpoint.

    Rows are no longer than those that the model was trained on.

    Args:
        config: of a file.
        checkpoint: run folder of the model, or its URL.
        step_name: see `Run.choose_step`.

    Raises:
        UsageError, NoCheckpointError, MismatchError: see `open_run` and `Run.choose_step`.
    """
    run = open_run(checkpoint, step_name)
    step = run.choose_step(step_name)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    longest = run.config.batch.sequence_length
    batch = replace(config.batch, sequence_length=min(longest, config.batch.sequence_length))
    fields |= {"batch": batch, "model": run.config.model}
    base = BaseCheckpoint(
        run=str(run.directory), step=step, fingerprint=read_step_fingerprint(run.directory, step)
    )
    return FinetuneRunConfig(**fields, base=base)


def open_examples(config: FinetuneRunConfig) -> tuple[FinetuneRunConfig, Sources]:
    """Read the examples; return the config with what depends on them, too.

    That are the labels of classes, the model's head for them, and the steps that epochs take.
    """
    examples = config.read_examples()
    objective = config.objective.with_labels(examples.label_names)
    model = objective.adapt_model(config.model)
    config = replace(config, objective=objective, model=model)
    sources = config.make_sources(examples)
    return _with_num_steps(config, sources), sources


def _with_num_steps(config: FinetuneRunConfig, sources: Sources) -> FinetuneRunConfig:
    if config.num_epochs is None:
        return config
    num_rows = sources.batches.tokens_per_epoch // config.batch.sequence_length
    num_steps = max(1, round(config.num_epochs * num_rows / config.batch.global_batch_size))
    return replace(config, schedule=replace(config.schedule, num_steps=num_steps))
