"""Configs of runs that begin with a checkpoint: a recipe that a file defines, and the checkpoint.

A file such as `configs/sft.py` defines a `TuningConfig`, which has no model: that comes with the
checkpoint. `complete` joins both into the `BasedRunConfig` of a run, and `open_data` adds what
depends on the data. What the data are is for the configs that derive from these two.
"""

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from jax.sharding import Mesh

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.command_line import find_option
from jaxgpt.config import configclass, replace
from jaxgpt.errors import JaxgptError, MismatchError, UsageError
from jaxgpt.evaluation.objective import FrozenModel
from jaxgpt.model.adapted import join, split
from jaxgpt.model.cost import num_parameters
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter
from jaxgpt.runs.config import RunConfig, RunSettings
from jaxgpt.runs.run import (
    BaseCheckpoint,
    Run,
    open_at,
    open_base,
    open_run,
    read_step_fingerprint,
)
from jaxgpt.runs.sources import Sources
from jaxgpt.runs.tuning.adapter_params import merge_into, own_parameters
from jaxgpt.storage.remote_folder import is_url
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.state import make_parameters

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=RunSettings)


@configclass
class TuningConfig(RunSettings):
    """Base of the recipes: a run that begins with a checkpoint, without its model."""

    such_as: ClassVar[str] = (
        "a run that begins with a checkpoint, such as configs/sft.py, configs/lora.py or "
        "configs/continue.py"
    )

    adapter: Adapter = NO_ADAPTER
    """Adapter that is trained, and saved alone, in place of all weights."""
    num_epochs: float | None = 3.0
    """Passes over the training data, which decide schedule.num_steps; None: it stands as it is."""

    def __post_init__(self) -> None:
        RunSettings.__post_init__(self)
        if self.num_epochs is not None and not 0 < self.num_epochs < math.inf:
            raise ValueError(f"num_epochs={self.num_epochs} must be positive, or None")

    def make_run_config(self, run: Run, fields: dict[str, Any]) -> "BasedRunConfig":
        """Return the config of a run.

        Args:
            run: the run of the checkpoint.
            fields: all but `data`, which may depend on that run.
        """
        raise NotImplementedError(f"{type(self).__name__} has no make_run_config")


@configclass
class BasedRunConfig(TuningConfig, RunConfig):
    """Base of the configs of runs that begin with a checkpoint."""

    measures_start: ClassVar[bool] = True

    base: BaseCheckpoint

    @property
    def base_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the checkpoint's run."""
        return open_at(self.base).tokenizer

    @property
    def rows_bring_reference(self) -> bool:
        """Return whether answers bring their log-probability under the base.

        With an adapter, each step computes it.
        """
        return self.objective.needs_reference and not self.adapter.has_parameters

    def with_data(self, names: tuple[str, ...]) -> Self:
        """Return the config with other data: files or folders."""
        raise NotImplementedError(f"{type(self).__name__} has no with_data")

    def open(self) -> tuple[Self, Sources]:
        """Open the data; return the config with what depends on them, too."""
        return self, self.open_sources()

    def open_model(self, place: str, step_name: str) -> FrozenModel:
        """Open another run whose model the loss reads.

        Raises:
            UsageError, NoCheckpointError, MismatchError: see `open_run` and `Run.choose_step`; or
                the run has another tokenizer.
        """
        run = open_run(place, step_name)
        own = self.base_tokenizer
        if run.tokenizer.fingerprint != own.fingerprint:
            raise MismatchError(
                f"{place} has another tokenizer ({run.tokenizer.fingerprint[:12]}) than "
                f"{self.base.run} ({own.fingerprint[:12]}), so their probabilities are of "
                "different tokens; choose a run of the same tokenizer"
            )
        step, model = run.choose_step(step_name), run.config.model
        size = num_parameters(model, own.vocab_size)
        logger.info("teacher: step %d of %s, %s parameters", step, place, f"{size:,}")
        return FrozenModel(
            run=place,
            step=step,
            fingerprint=read_step_fingerprint(run.directory, step),
            model=model,
        )

    def keep_for_evaluation(self, folder: Path, tokenizer: Tokenizer, mesh: Mesh) -> None:
        """Write into a run folder what evaluations would need the base for."""

    def build_model(self, vocab_size: int) -> Gpt:
        """Return the model that is trained, with its adapter."""
        return self.model.build(vocab_size, self.adapter)

    def make_parameters(self, model: Gpt, abstract: Any) -> Any:
        """Read the parameters of the checkpoint that the run begins with, or draw an adapter's.

        A head that the checkpoint does not have is drawn, too.

        Raises:
            MismatchError: the checkpoint is not what it was.
        """
        base = open_base(self.base)
        own, theirs = (getattr(each.objective, "labels", ()) for each in (self, base.config))
        has_head = base.config.model.head == self.model.head and own == theirs

        def is_read(path: tuple[str, ...]) -> bool:
            # An adapter has parameters of its own in a head, too.
            if self.adapter.has_parameters and self.adapter.is_trainable(path):
                return False
            return has_head if path[0] == "head" else True

        read, drawn = split(abstract, is_read)
        params = base.read_params(self.base.step, read) if read else {}
        return join(params, make_parameters(model, drawn, self.seed) if drawn else {})

    def read_frozen(self, abstract: Any) -> Any:
        """Read the parameters that an adapter leaves as they are, and those of other models.

        Raises:
            MismatchError: a checkpoint is not what it was.
        """
        others = self.objective.frozen_models
        own = {name: part for name, part in abstract.items() if name not in others}
        frozen = open_base(self.base).read_params(self.base.step, own) if own else {}
        for name, other in others.items():
            at = BaseCheckpoint(run=other.run, step=other.step, fingerprint=other.fingerprint)
            frozen[name] = open_base(at).read_params(other.step, abstract[name])
        return frozen

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


def complete(config: TuningConfig, checkpoint: str, step_name: str) -> BasedRunConfig:
    """Return the config of a run that begins with a checkpoint.

    Rows are no longer than those of the checkpoint's run.

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
    del fields["data"]
    longest = run.config.batch.sequence_length
    batch = replace(config.batch, sequence_length=min(longest, config.batch.sequence_length))
    base = BaseCheckpoint(
        run=checkpoint, step=step, fingerprint=read_step_fingerprint(run.directory, step)
    )
    fields |= {"batch": batch, "model": run.config.model, "base": base}
    return config.make_run_config(run, fields)


def with_given_steps(config: Settings, argv: Sequence[str]) -> Settings:
    """Return the config without epochs if the command line gives the steps.

    Raises:
        UsageError: it gives both.
    """
    if not isinstance(config, TuningConfig) or find_option(argv, "--schedule.num-steps") is None:
        return config
    if find_option(argv, "--num-epochs") not in (None, "None"):
        raise UsageError("--num-epochs and --schedule.num-steps exclude each other; give one")
    return replace(config, num_epochs=None)


def earlier_runs(base: BaseCheckpoint) -> Iterator[Run]:
    """Yield the run of a checkpoint, the run that this one began with, and so on.

    It ends before a run that is gone or changed, or is at a URL and would have to be downloaded.
    """
    run = open_at(base)
    yield run
    while isinstance(run.config, BasedRunConfig) and not is_url(run.config.base.run):
        try:
            run = open_base(run.config.base)
        except JaxgptError:
            return
        yield run


def open_data(config: BasedRunConfig) -> tuple[BasedRunConfig, Sources]:
    """Open the data, and the other models that the objective reads.

    Return the config with what depends on them, too, such as the steps that epochs take.
    """
    base = config.base
    length = config.batch.sequence_length
    known = max(run.config.batch.sequence_length for run in earlier_runs(base))
    if length > known:
        logger.warning(
            "rows of %d tokens are longer than the %d that %s was trained on, as far as its own "
            "bases are still there; places beyond are new to the model, so give it many such rows, "
            "or --batch.sequence-length %d",
            length, known, base.run, known,
        )  # fmt: skip
    objective = config.objective.open_models(config.open_model)
    config, sources = replace(config, objective=objective).open()
    if config.num_epochs is None:
        return config, sources
    num_rows = sources.batches.tokens_per_epoch // config.batch.sequence_length
    num_steps = max(1, round(config.num_epochs * num_rows / config.batch.global_batch_size))
    return replace(config, schedule=replace(config.schedule, num_steps=num_steps)), sources
