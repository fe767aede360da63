"""The checkpoints of a run: save without stopping, find, restore on any devices.

A step counts once everything of it is durable: it is written beside, then renamed (see
`step_folders.py`). Arrays are Orbax's (`orbax_files.py`); what is kept, `retention.py` decides.

    checkpoints/100/params/ training_state/     arrays
    checkpoints/100/metadata.json               {"version", "step", "items", "metadata"}
"""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.named_trees import (
    ArraySpec,
    describe_difference,
    named_arrays,
    named_specs,
    refill,
)
from jaxgpt.checkpoints.orbax_files import OrbaxFiles
from jaxgpt.checkpoints.retention import rank_by_loss, steps_to_keep
from jaxgpt.config import configclass
from jaxgpt.durable import write_json
from jaxgpt.errors import JaxgptError, MismatchError, NoCheckpointError, UsageError

FORMAT_VERSION = 1
PARAMS = "params"
TRAINING_STATE = "training_state"
_METADATA_FILE = "metadata.json"
_COMMIT_TIMEOUT_SECONDS = 1200


@configclass
class CheckpointConfig:
    """When to save and what to keep."""

    every_steps: int | None = None
    """Save at multiples of this many steps; None saves at every tenth of the run."""
    keep_latest: int = 2
    """How many of the newest checkpoints to keep."""
    keep_every_steps: int | None = None
    """Also keep checkpoints at multiples of this many steps, for good; None keeps none."""
    keep_best: int = 1
    """Also keep this many with the lowest evaluation loss."""

    def __post_init__(self) -> None:
        least = {"every_steps": 1, "keep_latest": 1, "keep_every_steps": 1, "keep_best": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name} = {value}: must be at least {minimum}")


class Checkpoints:
    """The checkpoints in one directory. One writer at a time; any number of readers.

    Args:
        directory: holds one folder per step; made if it is to be written.
        config: what to keep.
        read_only: never write, nor create, anything.

    Raises:
        UsageError: the directory cannot be written.
    """

    def __init__(
        self, directory: str | Path, config: CheckpointConfig, read_only: bool = False
    ) -> None:
        self.directory = Path(directory)
        self._config = config
        self._read_only = read_only
        self._files = OrbaxFiles()
        self._losses: dict[int, float | None] = {}
        self._pending: Future[None] | None = None
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="jaxgpt-checkpoint")
        if not read_only and jax.process_index() == 0:
            step_folders.prepare(self.directory, self._is_whole)

    def save(self, step: int, params: Any, training_state: Any, metadata: dict[str, Any]) -> None:
        """Begin saving; returns once the arrays may be donated, long before the save counts.

        Waits for the save before this one. Does nothing if the step is saved already. Every
        host calls this with its part of the same global arrays.

        Args:
            step: what the checkpoint is called; steps done.
            params: pytree of arrays.
            training_state: pytree of arrays; whatever else is needed to go on.
            metadata: JSON values; `eval_loss`, if any, decides which checkpoint is best.

        Raises:
            JaxgptError: this save cannot begin, or the one before it failed.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened read-only")
        # A copy by way of JSON: what is not JSON fails here rather than in the thread.
        document = {"version": FORMAT_VERSION, "step": step, "items": [], "metadata": metadata}
        document = json.loads(json.dumps(document))
        self.wait()
        if step in self.steps():
            return
        arrays = {PARAMS: named_arrays(params), TRAINING_STATE: named_arrays(training_state)}
        items = {item: named for item, named in arrays.items() if named}
        document["items"] = list(items)
        try:
            self._discard_staging(step)
            self._files.start(step_folders.staging_folder(self.directory, step), items)
        except Exception as error:
            raise self._save_failed(step, error) from error
        self._pending = self._committer.submit(self._finish, step, document)

    def wait(self) -> None:
        """Wait until the last save counts.

        Raises:
            JaxgptError: it failed; it is named, with the newest step that there is.
        """
        if self._pending is not None:
            wait_for([self._pending])
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for the last save and end the threads. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._committer.shutdown(wait=True)
            self._files.close()

    def steps(self) -> list[int]:
        """Return the complete steps, ascending. One still being saved is none of them."""
        return step_folders.complete_steps(self.directory, self._is_whole)

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Return the complete step with the lowest finite `eval_loss`, or None if none has one."""
        ranked = rank_by_loss(*self._steps_and_losses())
        return ranked[0] if ranked else None

    def resolve(self, name: str | int) -> int:
        """Turn "latest", "best" or a number into a step that exists.

        Raises:
            NoCheckpointError: there is no complete step, or none with an evaluation.
            UsageError: `name` is none of these; those that exist are listed.
        """
        steps = self.steps()
        if not steps:
            raise NoCheckpointError(f"no complete checkpoint in {self.directory}; train first")
        if name == "latest":
            return steps[-1]
        if name == "best":
            best = self.best()
            if best is None:
                raise NoCheckpointError(
                    f"no checkpoint in {self.directory} has an evaluation loss; use latest or "
                    f"one of {', '.join(map(str, steps))}"
                )
            return best
        if str(name) not in map(str, steps):
            raise UsageError(
                f"no checkpoint of step {name} in {self.directory}; there are "
                f"{', '.join(map(str, steps))} (or latest, best)"
            )
        return int(name)

    def read_metadata(self, step: int) -> dict[str, Any]:
        """Return the `metadata` that the step was saved with."""
        return self._read_document(step)["metadata"]

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """Read the parameters only.

        Args:
            step: a complete step.
            abstract_params: pytree of `ShapeDtypeStruct`. Its shardings say where each array
                goes, on any number of devices; one without a sharding gives a NumPy array. A
                floating dtype other than the stored one casts.

        Raises:
            MismatchError: other names, shapes or dtypes are stored; both sides are named.
            NoCheckpointError: the files cannot be read.
        """
        return self._restore(step, PARAMS, abstract_params, cast_floats=True)

    def restore(
        self, step: int, abstract_params: Any, abstract_training_state: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Read everything: (params, training_state, metadata), exactly as saved.

        As `restore_params`, but dtypes must be equal too.
        """
        params = self._restore(step, PARAMS, abstract_params, cast_floats=False)
        state = self._restore(step, TRAINING_STATE, abstract_training_state, cast_floats=False)
        return params, state, self.read_metadata(step)

    def _finish(self, step: int, document: dict[str, Any]) -> None:
        """Complete a save; runs in the committer's thread on every host."""
        try:
            self._files.finish()
            try:
                if jax.process_index() == 0:
                    self._commit(step, document)
            finally:  # the other hosts wait for this one whatever has happened
                self._files.barrier(f"jaxgpt-commit-{step}", _COMMIT_TIMEOUT_SECONDS)
        except Exception as error:
            self._discard_staging(step)
            raise self._save_failed(step, error) from error

    def _discard_staging(self, step: int) -> None:
        if jax.process_index() == 0:
            step_folders.discard_staging(self.directory, step)

    def _commit(self, step: int, document: dict[str, Any]) -> None:
        staging = step_folders.staging_folder(self.directory, step)
        write_json(staging / _METADATA_FILE, document)
        step_folders.commit(self.directory, step)
        steps, losses = self._steps_and_losses()
        config = self._config
        keep = steps_to_keep(
            steps, losses, config.keep_latest, config.keep_every_steps, config.keep_best
        )
        for doomed in sorted(set(steps) - keep):
            step_folders.delete(self.directory, doomed)

    def _restore(self, step: int, item: str, abstract: Any, cast_floats: bool) -> Any:
        folder = step_folders.step_folder(self.directory, step)
        document = self._read_document(step)
        specs = named_specs(abstract)
        wanted = {name: ArraySpec(spec.shape, np.dtype(spec.dtype)) for name, spec in specs.items()}
        try:
            stored = self._files.specs(folder, item) if item in document["items"] else {}
            if difference := describe_difference(stored, wanted, cast_floats):
                raise MismatchError(f"{item} of checkpoint {folder} do not fit: {difference}")
            arrays = self._files.read(folder, item, specs) if specs else {}
        except MismatchError:
            raise
        except Exception as error:
            raise NoCheckpointError(
                f"checkpoint {folder} cannot be read: {_one_line(error)}; complete checkpoints: "
                f"{', '.join(map(str, self.steps()))}"
            ) from error
        return refill(abstract, arrays)

    def _read_document(self, step: int) -> dict[str, Any]:
        path = step_folders.step_folder(self.directory, step) / _METADATA_FILE
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            raise NoCheckpointError(
                f"no complete checkpoint of step {step} in {self.directory}; there are "
                f"{', '.join(map(str, self.steps())) or 'none'}"
            ) from None
        if document["version"] != FORMAT_VERSION:
            raise MismatchError(
                f"{path.parent} has checkpoint format {document['version']}; this version of "
                f"jaxgpt reads format {FORMAT_VERSION}"
            )
        return document

    def _is_whole(self, folder: Path) -> bool:
        try:
            document = json.loads((folder / _METADATA_FILE).read_text())
            if document["version"] != FORMAT_VERSION:
                return True  # not ours to judge; reading it is refused by name
            return all(self._files.is_whole(folder, item) for item in document["items"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _steps_and_losses(self) -> tuple[list[int], dict[int, float]]:
        steps = self.steps()
        for step in steps:
            if step not in self._losses:
                self._losses[step] = self.read_metadata(step).get("eval_loss")
        losses = {step: self._losses[step] for step in steps}
        return steps, {step: loss for step, loss in losses.items() if loss is not None}

    def _save_failed(self, step: int, error: Exception) -> JaxgptError:
        newest = self.latest()
        return JaxgptError(
            f"could not save step {step} in {self.directory}: {_one_line(error)}; the newest "
            f"complete checkpoint is {'none' if newest is None else f'step {newest}'}"
        )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
