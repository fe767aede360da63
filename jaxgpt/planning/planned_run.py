"""`PlannedRun`: a config with what a step needs besides, as shapes: its rows and vocabulary.

Axes: B rows, T tokens of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxgpt.batch import Batch
from jaxgpt.command_line import find_option
from jaxgpt.config import load_config, replace
from jaxgpt.data.loader import WeightedDataset, open_training_batches
from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.finetuning.preference.reference import REFERENCE
from jaxgpt.runs.config import RunConfig, RunSettings, TrainConfig
from jaxgpt.runs.sources import Sources
from jaxgpt.runs.tuning.based_config import (
    BasedRunConfig,
    TuningConfig,
    complete,
    open_data,
    with_given_steps,
)


@dataclass(frozen=True)
class PlannedRun:
    """A run before it is started.

    Attributes:
        config: of the run.
        vocab_size: ids of its tokenizer.
        row: shapes and types of a batch of one row, each [1, T, ...].
        num_segments: most segments that a row has; 0: it is not known.
    """

    config: RunConfig
    vocab_size: int
    row: Batch
    num_segments: int = 0

    def rows(self, num_rows: int) -> Batch:
        """Return shapes and types of a batch, each [B, T, ...]."""
        return jax.tree.map(
            lambda part: jax.ShapeDtypeStruct((num_rows, *part.shape[1:]), part.dtype), self.row
        )

    @property
    def bytes_of_row(self) -> int:
        """Return the bytes of one row of a batch."""
        return sum(part.size * part.dtype.itemsize for part in jax.tree.leaves(self.row))


def plan_pretraining(config: TrainConfig, vocab_size: int) -> PlannedRun:
    """Return a run that learns from text."""
    shape = (1, config.batch.sequence_length)
    ids, weights = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.float32))
    segments = ids if config.data.mask_documents else None
    return PlannedRun(config, vocab_size, Batch(ids, ids, segments, ids, weights))


def plan_tuning(config: BasedRunConfig, sources: Sources) -> PlannedRun:
    """Return a run that begins with a checkpoint; its data are open."""
    batches = sources.batches
    row = jax.tree.map(
        lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype), batches.pick(0, [0])
    )
    if config.rows_bring_reference:
        # A run computes it before its first step; a plan computes nothing.
        brought = jax.ShapeDtypeStruct((*row.tokens_BT.shape, 2), jnp.float32)
        row = row._replace(extras={**(row.extras or {}), REFERENCE: brought})
    return PlannedRun(config, sources.tokenizer.vocab_size, row, batches.num_segments)


def load_run_config(path: str | Path, argv: Sequence[str]) -> RunConfig:
    """Return the settings of a config file with their model, which may be that of `--checkpoint`.

    Raises:
        ConfigError: see `load_config`.
        UsageError: the file is missing, or a checkpoint is, or has no part in the run.
        NoCheckpointError, MismatchError: see `complete`.
    """
    settings, checkpoint = load_config(path, RunSettings), find_option(argv, "--checkpoint")
    if isinstance(settings, TuningConfig) and not isinstance(settings, BasedRunConfig):
        if checkpoint is None:
            raise UsageError(
                "--checkpoint is missing: the config has no model, and begins with that of a run; "
                "for example --checkpoint runs/base"
            )
        return complete(settings, checkpoint, find_option(argv, "--step") or "latest")
    if checkpoint is not None:
        raise UsageError(
            "--checkpoint has no part in this run, whose config has a model; leave it out, or "
            "choose a config of fine-tuning, such as configs/sft.py"
        )
    assert isinstance(settings, RunConfig)
    return settings


def open_planned(
    config: RunSettings, argv: Sequence[str], data: tuple[str, ...], vocab_size: int | None
) -> PlannedRun:
    """Open the data of a run as far as its plan depends on them.

    Args:
        config: of the run, as `load_run_config` returns it, with the values of options.
        argv: the command line.
        data: files of examples or dataset folders, in place of those of the config.
        vocab_size: of a tokenizer that is not there yet.

    Raises:
        UsageError: the data are missing, or an option has no part in the run.
        ConfigError: no vocabulary is known.
        BadInputError, MismatchError: see `open_data`.
    """
    if isinstance(config, TrainConfig):
        if data:
            datasets = tuple(WeightedDataset(path=name) for name in data)
            config = replace(config, data=replace(config.data, datasets=datasets))
        return plan_pretraining(config, _find_vocab_size(config, vocab_size))
    assert isinstance(config, BasedRunConfig)
    if vocab_size is not None:
        raise UsageError("--vocab-size has no part in fine-tuning: the base has a tokenizer")
    config = with_given_steps(config.with_data(data) if data else config, argv)
    return plan_tuning(*open_data(config))


def _find_vocab_size(config: TrainConfig, vocab_size: int | None) -> int:
    if vocab_size is not None:
        return vocab_size
    if not config.data.datasets:
        raise ConfigError("the config names no dataset, so no vocabulary; give --vocab-size N")
    batches = open_training_batches(config.data, config.batch, config.seed)
    return batches.datasets[0].load_tokenizer().vocab_size
