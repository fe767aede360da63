"""`Run`: a run folder opened for reading, by evaluation, generation, fine-tuning and export."""

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.checkpoints.integrity import (
    MANIFEST,
    describe_damage,
    find_damage,
    read_fingerprint,
)
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.remote.download import fetch_run
from jaxgpt.checkpoints.step_content import PARAMS
from jaxgpt.checkpoints.verification import RUN_FILES
from jaxgpt.config import configclass, from_dict
from jaxgpt.errors import MismatchError, NoCheckpointError, UsageError, is_machine_error
from jaxgpt.model.gpt import Gpt
from jaxgpt.names.nearby_paths import describe_nearby_runs
from jaxgpt.runs.config import CONFIG_VERSION, RunConfig
from jaxgpt.storage.remote_folder import is_url
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.overfitting import find_rise
from jaxgpt.training.state import abstract_parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run folder opened for reading.

    Attributes:
        directory: the folder.
        config: the run's config, from its config.json.
        tokenizer: the one that the run was trained with.
        lineage: origin of the run (data, tokenizer, config, code).
        checkpoints: opened read-only.
    """

    directory: Path
    config: RunConfig
    tokenizer: Tokenizer
    lineage: dict[str, Any]
    checkpoints: Checkpoints

    def build_model(self) -> Gpt:
        """Return the model, without parameters; what a run has added to it is merged into it."""
        return self.config.model.build(self.tokenizer.vocab_size)

    def choose_step(self, name: str) -> int:
        """Resolve a step's name as `Checkpoints.resolve` does; warn if the latest is not the best.

        Raises:
            NoCheckpointError, UsageError: see `Checkpoints.resolve`.
        """
        step = self.checkpoints.resolve(name)
        if name != "latest":
            return step
        try:
            best = self.checkpoints.best()
            steps = [] if best is None else [best, step]
            losses = [self.checkpoints.read_metadata(each).get("eval_loss") for each in steps]
        except NoCheckpointError as error:
            logger.warning("the steps cannot be compared: %s", error)
            return step
        if None not in losses and find_rise(
            [{"step": each, "loss": loss} for each, loss in zip(steps, losses, strict=True)]
        ):
            logger.warning(
                "step %d has a held-out loss of %.4f, step %d one of %.4f: --step best takes it",
                step,
                losses[1],
                best,
                losses[0],
            )
        return step

    def restore_params(self, step: int, mesh: Mesh) -> Any:
        """Read a checkpoint's parameters onto any mesh.

        Raises:
            MismatchError: the checkpoint holds other parameters than the config describes.
        """
        abstract, _ = abstract_parameters(self.build_model(), self.config.sharding, mesh)
        return self._read(step, abstract)

    def read_params(self, step: int, abstract: Any) -> Any:
        """Read parts of a checkpoint's parameters in given types and places.

        Args:
            step: which.
            abstract: parts such as `blocks` and `embedding`, each of them whole.

        Raises:
            MismatchError: as `restore_params`.
        """
        mesh = jax.tree.leaves(abstract)[0].sharding.mesh
        # Every array of a checkpoint is read: it is checked against names of all of them.
        whole, _ = abstract_parameters(self.build_model(), self.config.sharding, mesh)
        params = self._read(step, {**whole, **abstract})
        return {name: params[name] for name in abstract}

    def _read(self, step: int, abstract: Any) -> Any:
        vocab_size = self.tokenizer.vocab_size
        return self.config.read_params(self.checkpoints, step, vocab_size, abstract)


def open_run(directory: str | Path, step: str = "latest") -> Run:
    """Open a run folder for evaluation, generation or export; its JSON is read, no code is run.

    Args:
        directory: a folder written by `jaxgpt.train`, or the URL of one.
        step: of a URL, the one to fetch: latest, best or a number.

    Raises:
        UsageError: there is no such folder.
        NoCheckpointError: there is no whole step at the URL.
        MismatchError: it is not a run folder, or of a later format.
    """
    place = str(directory)
    directory = fetch_run(place, step) if is_url(place) else Path(place)
    if not directory.is_dir():
        raise UsageError(f"no run folder at {directory}{describe_nearby_runs(directory)}")
    check_run_files(directory)
    try:
        envelope = json.loads((directory / "config.json").read_text("utf-8"))
        lineage = json.loads((directory / "lineage.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        if is_machine_error(error):
            raise
        raise MismatchError(
            f"{directory} is not a run folder: config.json or lineage.json is missing or damaged "
            f"({error}){describe_nearby_runs(directory)}"
        ) from None
    config = read_run_config(envelope, directory)
    return Run(
        directory=directory,
        config=config,
        tokenizer=Tokenizer.load(directory / "tokenizer"),
        lineage=lineage,
        checkpoints=Checkpoints(directory / "checkpoints", config.checkpoint, read_only=True),
    )


def check_run_files(directory: Path, names: tuple[str, ...] = RUN_FILES) -> None:
    """Compare config, lineage and tokenizer of a run, or some of them, with their hashes.

    A run that has no manifest, or a damaged one, passes with a warning.

    Raises:
        MismatchError: one is not what was written; it is named.
    """
    damage = find_damage(directory, names)
    if any(item.path == MANIFEST for item in damage):
        # Of a version without hashes, or of a start that was killed; `jaxgpt.verify` is stricter.
        logger.warning(
            "%s; the next start of the run writes it", describe_damage(directory, damage)
        )
    elif damage:
        raise MismatchError(
            f"{describe_damage(directory, damage)}; put back a copy of the file, or, if it was "
            f"changed on purpose, delete {directory / MANIFEST}"
        )


def read_run_config(envelope: Any, directory: Path) -> RunConfig:
    """Unwrap the config.json of a run folder: {"version": 1, "config": {...}}."""
    version = envelope.get("version") if isinstance(envelope, dict) else None
    if version != CONFIG_VERSION or "config" not in envelope:
        raise MismatchError(
            f"{directory}/config.json has format version {version!r}; this jaxgpt reads "
            f"{CONFIG_VERSION}. Use the version that wrote it"
        )
    return from_dict(envelope["config"], RunConfig)


@configclass
class BaseCheckpoint:
    """The checkpoint that a fine-tuning run begins with."""

    run: str
    """Run folder, or its URL."""
    step: int
    """Step of the run."""
    fingerprint: str
    """Hash of the step's parameters, from the hashes of their files."""


def open_base(base: BaseCheckpoint) -> Run:
    """Open the run that a fine-tuning run began with.

    Raises:
        MismatchError: its checkpoint is not what it was.
        NoCheckpointError: it is gone.
    """
    try:
        run = open_at(base)
    except UsageError as error:
        raise NoCheckpointError(
            f"the checkpoint that this run began with, step {base.step} of {base.run}, is gone, "
            f"seen from {Path.cwd()}: {error}; put it back there"
        ) from None
    if not (run.directory / "checkpoints" / str(base.step)).is_dir():
        raise NoCheckpointError(
            f"{base.run} has no step {base.step} any more, which this run began with: a run that "
            "goes on deletes its older steps (checkpoint.keep_latest); put a copy of the step back"
        )
    found = read_step_fingerprint(run.directory, base.step)
    if found != base.fingerprint:
        raise MismatchError(
            f"step {base.step} of {base.run} is not the checkpoint that this run began with "
            f"({found[:12]}, then {base.fingerprint[:12]}); restore it, or choose another --run-dir"
        )
    return run


def open_at(base: BaseCheckpoint) -> Run:
    """Open the run of a checkpoint, whatever its files are; see `open_run` for what it raises."""
    return _fetch(base.run, base.step) if is_url(base.run) else open_run(base.run)


@functools.cache
def _fetch(url: str, step: int) -> Run:
    """Open a run at a URL once a process, for it is downloaded."""
    return open_run(url, str(step))


def read_step_fingerprint(directory: Path, step: int) -> str:
    """Return one hash of a step's parameters, equal for each copy of them."""
    return read_fingerprint(directory / "checkpoints" / str(step), (PARAMS,))
