"""The config of a fine-tuning run: a recipe that a file defines, completed by a checkpoint.

A file such as `configs/sft.py` defines a `FinetuneConfig`, which has no model: that comes with the
checkpoint. `complete` joins both into the `FinetuneRunConfig` of a run.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxgpt.checkpoints.integrity import read_fingerprint
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import configclass, replace
from jaxgpt.errors import (
    BadInputError,
    ConfigError,
    MismatchError,
    NoCheckpointError,
    UsageError,
)
from jaxgpt.finetuning.batches import ExampleBatches, HeldOutExamples
from jaxgpt.finetuning.examples import Examples, ExamplesConfig, read_examples
from jaxgpt.finetuning.objectives import ExampleObjective, Supervised
from jaxgpt.inference.text_generation import HealedPrompt
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter
from jaxgpt.runs.adapter_params import merge_into, own_parameters
from jaxgpt.runs.config import RunConfig, RunSettings
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runs.sources import HeldOut, Sources
from jaxgpt.tokenizer.chat_template import USER, ChatTemplate, Message
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.state import make_parameters

# Under this many held-out targets, the loss depends much on which examples were drawn.
_FEW_TARGETS = 1_000


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
class BaseCheckpoint:
    """The checkpoint that a fine-tuning run begins with."""

    run: str
    """Run folder."""
    step: int
    """Step of the run."""
    fingerprint: str
    """Hash of the step's files, as its manifest has it."""


@configclass
class FinetuneRunConfig(FinetuneConfig, RunConfig):
    """A fine-tuning run with its model, as a run folder keeps it."""

    base: BaseCheckpoint

    def open_sources(self) -> Sources:
        """Read the examples; see `read_examples` for what it raises."""
        tokenizer = Tokenizer.load(self.base.run)
        examples = self._read(self.data, tokenizer, self.batch.sequence_length, "--data")
        batches = ExampleBatches(examples.training, self.batch, self.seed)
        held_out = HeldOutExamples(examples.held_out, self.batch.sequence_length)
        # One program serves both.
        batches.num_segments = max(batches.num_segments, held_out.num_segments)
        num_targets = examples.held_out.num_targets

        def warn(num_epochs: float) -> list[str]:
            if num_targets >= _FEW_TARGETS:
                return []
            return [
                f"the held-out examples have {num_targets:,} targets; under some {_FEW_TARGETS:,} "
                "their loss depends much on which examples were drawn: give more, or a larger "
                "data.held_out_share"
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
        examples = self._read(config, tokenizer, length, "--data")
        side = examples.training if data is not None or split == "train" else examples.held_out
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

        Raises:
            MismatchError: the checkpoint is not what it was.
        """
        if self.adapter.has_parameters:
            return make_parameters(model, abstract, self.seed)
        return open_base(self.base).read_params(self.base.step, abstract)

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

    def _read(
        self, config: ExamplesConfig, tokenizer: Tokenizer, length: int, option: str
    ) -> Examples:
        group_size = self.objective.group_size
        # Sequences of one example share a row, and the last token of each takes no place.
        examples = read_examples(config, tokenizer, length // group_size + 1, option)
        if examples.training.group_size != group_size:
            raise ConfigError(
                f"{option} {', '.join(config.files)}: each example has "
                f"{examples.training.group_size} sequences, and the objective "
                f"{type(self.objective).__name__} learns from {group_size}; choose an objective "
                "or a data.form that fits"
            )
        return examples


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
        run=str(run.directory), step=step, fingerprint=_fingerprint(run.directory, step)
    )
    return FinetuneRunConfig(**fields, base=base)


def open_examples(config: FinetuneRunConfig) -> tuple[FinetuneRunConfig, Sources]:
    """Read the examples; return the config with the steps that its epochs take over them, too."""
    sources = config.open_sources()
    return _with_num_steps(config, sources), sources


def _with_num_steps(config: FinetuneRunConfig, sources: Sources) -> FinetuneRunConfig:
    if config.num_epochs is None:
        return config
    num_rows = sources.batches.tokens_per_epoch // config.batch.sequence_length
    num_steps = max(1, round(config.num_epochs * num_rows / config.batch.global_batch_size))
    return replace(config, schedule=replace(config.schedule, num_steps=num_steps))


def open_base(base: BaseCheckpoint) -> Run:
    """Open the run that a fine-tuning run began with.

    Raises:
        MismatchError: its checkpoint is not what it was.
        NoCheckpointError: it is gone.
    """
    try:
        run = open_run(base.run)
    except UsageError as error:
        raise NoCheckpointError(
            f"the checkpoint that this run began with, step {base.step} of {base.run}, is gone, "
            f"seen from {Path.cwd()}: {error}; put it back there"
        ) from None
    found = _fingerprint(run.directory, base.step)
    if found != base.fingerprint:
        raise MismatchError(
            f"step {base.step} of {base.run} is not the checkpoint that this run began with "
            f"({found[:12]}, then {base.fingerprint[:12]}); restore it, or choose another --run-dir"
        )
    return run


def _fingerprint(directory: Path, step: int) -> str:
    return read_fingerprint(directory / "checkpoints" / str(step))
