"""The checkpoints of a run: save without stopping, find, restore on any devices.

A step counts once everything of it is durable and hashed: it is written beside (`saving.py`),
then renamed (`step_folders.py`). What is read was compared with its hashes (`integrity.py`).

    checkpoints/100/params/ training_state/     arrays, as Orbax writes them
    checkpoints/100/metadata.json               {"version", "step", "items", "metadata"}
    checkpoints/100/integrity.json              hashes of all of it
"""

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.named_trees import named_arrays
from jaxgpt.checkpoints.orbax_files import OrbaxFiles
from jaxgpt.checkpoints.retention import rank_by_loss, steps_to_keep
from jaxgpt.checkpoints.saving import Saver
from jaxgpt.checkpoints.step_content import (
    FORMAT_VERSION,
    ITEMS,
    PARAMS,
    TRAINING_STATE,
    find_obvious_problem,
    stored_bytes,
)
from jaxgpt.checkpoints.stored_steps import StoredSteps, one_line
from jaxgpt.config import configclass
from jaxgpt.errors import JaxgptError, NoCheckpointError, UsageError
from jaxgpt.parallel.hosts import gather, share

logger = logging.getLogger(__name__)

_SPACE_FACTOR = 1.2


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
    max_failed_saves: int = 3
    """End the run with an error when this many saves in a row have failed."""

    def __post_init__(self) -> None:
        least = {
            "every_steps": 1,
            "keep_latest": 1,
            "keep_every_steps": 1,
            "keep_best": 0,
            "max_failed_saves": 1,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name} = {value}: must be at least {minimum}")


@dataclass(frozen=True)
class CheckpointEvent:
    """Something that happened to checkpoints: "quarantine", "abandon", "save_failed"."""

    name: str
    step: int
    detail: str


class Checkpoints:
    """The checkpoints in one directory. One writer at a time; any number of readers.

    With several hosts every one of them makes the same calls in the same order.

    Args:
        directory: holds one folder per step; made if it is to be written.
        config: what to keep.
        read_only: never write, nor create, nor rename anything.

    Raises:
        UsageError: the directory cannot be written.
    """

    def __init__(
        self, directory: str | Path, config: CheckpointConfig, read_only: bool = False
    ) -> None:
        self.directory = Path(directory)
        self._config = config
        self._read_only = read_only
        files = OrbaxFiles()
        self._stored = StoredSteps(self.directory, files)
        self._saver = Saver(self.directory, files, self._apply_policy)
        self._losses: dict[int, float | None] = {}
        self._failure: JaxgptError | None = None
        self._failures_in_a_row = 0
        self._attempted = 0
        self._events: list[CheckpointEvent] = []
        if not read_only and jax.process_index() == 0:
            step_folders.prepare(self.directory, find_obvious_problem)

    def save(self, step: int, params: Any, training_state: Any, metadata: dict[str, Any]) -> bool:
        """Begin saving; returns once the arrays may be donated, long before the save counts.

        Waits for the save before this one. Does nothing if the step is saved already. A save that
        fails, or for which there is no room, is logged and counted, and does not stop the training:
        the next one may succeed.

        Args:
            step: what the checkpoint is called; steps done.
            params: pytree of arrays.
            training_state: pytree of arrays; whatever else is needed to go on.
            metadata: JSON values; `eval_loss`, if any, decides which checkpoint is best.

        Returns:
            Whether the step is saved or being saved.

        Raises:
            JaxgptError: as many saves in a row as the config allows have failed.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened read-only")
        # A copy by way of JSON: what is not JSON fails here rather than in the thread.
        document = {"version": FORMAT_VERSION, "step": step, "items": [], "metadata": metadata}
        document = json.loads(json.dumps(document))
        self._settle_all()
        self._check_failures()
        if step in self.steps():
            return True
        self._attempted = step
        arrays = {PARAMS: named_arrays(params), TRAINING_STATE: named_arrays(training_state)}
        items = {item: named for item, named in arrays.items() if named}
        document["items"] = list(items)
        if shortage := self._find_shortage(items):
            self._fail(step, shortage)
            self._check_failures()
            return False
        try:
            self._saver.start(step, items, document)
        except Exception as error:
            self._fail(step, one_line(error))
            self._check_failures()
            return False
        return True

    def wait(self) -> None:
        """Wait until the last save counts.

        Raises:
            JaxgptError: it failed; it is named, with the newest step that there is.
        """
        if problem := self._settle():
            self._fail(self._attempted, problem)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Wait for the last save and end the threads. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._saver.close()

    def take_events(self) -> list[CheckpointEvent]:
        """Return what has happened since the last call, for the run's log."""
        events, self._events = self._events, []
        return events

    def steps(self) -> list[int]:
        """Return the complete steps, ascending. One still being saved is none of them."""
        return self._stored.complete()

    def latest(self) -> int | None:
        """Return the newest complete step, or None. Its arrays are not read."""
        return max(self.steps(), default=None)

    def latest_verified(self, before: int | None = None) -> int | None:
        """Return the newest step that is, to the byte, what was saved; None if none is.

        Those found damaged on the way are renamed to `damaged-STEP`, or left out with a warning if
        this was opened read-only.

        Args:
            before: only steps before this one.
        """
        self._settle_all()
        steps = [step for step in self.steps() if before is None or step < before]
        return self._first_whole(reversed(steps), ITEMS)

    def abandon_after(self, step: int) -> list[int]:
        """Set aside all steps after `step`, so that nothing finds them; return them.

        For a run that goes back. They are kept as `abandoned-STEP` until the run is past them.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened read-only")
        self._settle_all()
        self._failure = None
        later = [number for number in step_folders.named_steps(self.directory) if number > step]
        for number in reversed(later):  # The newest first: a kill leaves no gap.
            if jax.process_index() == 0:
                step_folders.abandon(self.directory, number)
            self._happened("abandon", number, f"went back to step {step}")
            self._forget(number)
        share("abandoned checkpoints", None)  # No host looks before the first one has renamed.
        return later

    def best(self) -> int | None:
        """Return the complete step with the lowest finite `eval_loss`, or None if none has one."""
        ranked = rank_by_loss(*self._steps_and_losses())
        return ranked[0] if ranked else None

    def resolve(self, name: str | int) -> int:
        """Turn "latest", "best" or a number into a step whose parameters are whole.

        Of several, damaged ones are left out with a warning; one named by its number must be whole.

        Raises:
            NoCheckpointError: there is none, or none with an evaluation, or it is damaged: its
                files are named.
            UsageError: `name` is none of these; those that exist are listed.
        """
        steps = self.steps()
        if str(name) in map(str, step_folders.named_steps(self.directory)):
            self._stored.require_whole(int(name), (PARAMS,))
            return int(name)
        if name == "best":
            candidates = rank_by_loss(*self._steps_and_losses())
            if steps and not candidates:
                raise NoCheckpointError(
                    f"no checkpoint in {self.directory} has an evaluation loss; use latest or "
                    f"one of {', '.join(map(str, steps))}"
                )
        else:
            candidates = steps[::-1]
        if steps and name not in ("latest", "best"):
            raise UsageError(
                f"no checkpoint of step {name} in {self.directory}; there are "
                f"{', '.join(map(str, steps))} (or latest, best)"
            )
        step = self._first_whole(candidates, (PARAMS,))
        if step is None:
            raise NoCheckpointError(self._why_none())
        return step

    def read_metadata(self, step: int) -> dict[str, Any]:
        """Return the `metadata` that the step was saved with."""
        return self._stored.read_metadata(step)

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """Read the parameters only.

        Args:
            step: a complete step.
            abstract_params: pytree of `ShapeDtypeStruct`. Its shardings say where each array
                goes, on any number of devices; one without a sharding gives a NumPy array. A
                floating dtype other than the stored one casts.

        Raises:
            MismatchError: other names, shapes or dtypes are stored; both sides are named.
            NoCheckpointError: the files are damaged or cannot be read.
        """
        return self._stored.restore(step, {PARAMS: abstract_params})[PARAMS]

    def restore(
        self, step: int, abstract_params: Any, abstract_training_state: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Read everything: (params, training_state, metadata), exactly as saved.

        As `restore_params`, but dtypes must be equal too.
        """
        wanted = {PARAMS: abstract_params, TRAINING_STATE: abstract_training_state}
        trees = self._stored.restore(step, wanted)
        return trees[PARAMS], trees[TRAINING_STATE], self.read_metadata(step)

    def _first_whole(self, candidates: Iterable[int], items: Sequence[str]) -> int | None:
        """The first of some steps that is whole, alike on all hosts."""
        remaining = list(candidates)
        while True:
            # The first host's list counts: others may still see what it has just renamed.
            step = share("a checkpoint to try", remaining.pop(0) if remaining else None)
            if step is None:
                return None
            problem = self._stored.find_problem(step, items)
            if problem is None:
                return step
            self._leave_out(step, problem)

    def _leave_out(self, step: int, problem: str) -> None:
        if self._read_only:
            logger.warning("step %d is left out, it is damaged: %s", step, problem)
            return
        self._happened("quarantine", step, problem)
        try:
            if jax.process_index() == 0:
                step_folders.quarantine(self.directory, step, problem)
                self._forget(step)
        except OSError as error:
            logger.warning("step %d is damaged, cannot be renamed: %s", step, error.strerror)

    def _apply_policy(self) -> None:
        """Delete what the policy does not keep; runs in the thread, after a step was committed.

        That step was read back from the storage, so one whole step stays whatever is deleted.
        """
        try:
            steps, losses = self._steps_and_losses()
            config = self._config
            keep = steps_to_keep(
                steps, losses, config.keep_latest, config.keep_every_steps, config.keep_best
            )
            for doomed in sorted(set(steps) - keep):
                step_folders.delete(self.directory, doomed)
            step_folders.delete_abandoned(self.directory, steps[-1])
        except (OSError, JaxgptError) as error:
            logger.warning("cannot delete an old checkpoint: %s", one_line(error))

    def _steps_and_losses(self) -> tuple[list[int], dict[int, float]]:
        steps = self.steps()
        for step in steps:
            if step not in self._losses:
                self._losses[step] = self.read_metadata(step).get("eval_loss")
        losses = {step: self._losses[step] for step in steps}
        return steps, {step: loss for step, loss in losses.items() if loss is not None}

    def _find_shortage(self, items: Any) -> str | None:
        """Say that the disk has no room for another step; alike on all hosts."""
        shortage = None
        if jax.process_index() == 0:
            newest = self.latest()
            arrays = (array for named in items.values() for array in named.values())
            size = None if newest is None else stored_bytes(self.directory / str(newest))
            needed = int(_SPACE_FACTOR * (size or sum(array.nbytes for array in arrays)))
            free = shutil.disk_usage(self.directory).free
            if free < needed:
                shortage = f"{free:,} bytes are free on its disk and {needed:,} may be needed"
        return share("free space", shortage)

    def _settle(self) -> str:
        """Wait for the save under way; return what went wrong at this host, or nothing."""
        step, error = self._saver.settle() or (None, None)
        if step is not None and error is None:
            self._failures_in_a_row, self._failure = 0, None
        return "" if error is None else one_line(error)

    def _settle_all(self) -> None:
        """The same, counted alike on all hosts: what fails at one has failed."""
        if problem := next(filter(None, gather("the last save", self._settle())), None):
            self._fail(self._attempted, problem)

    def _fail(self, step: int, problem: str) -> None:
        newest = self.latest()
        self._failure = JaxgptError(
            f"could not save step {step} in {self.directory}: {problem}; the newest complete "
            f"checkpoint is {'none' if newest is None else f'step {newest}'}"
        )
        self._failures_in_a_row += 1
        self._happened("save_failed", step, problem)
        logger.warning("%s", self._failure)

    def _check_failures(self) -> None:
        if self._failures_in_a_row >= self._config.max_failed_saves:
            self._failures_in_a_row, failure, self._failure = 0, self._failure, None
            raise JaxgptError(
                f"{self._config.max_failed_saves} saves in a row have failed; {failure}"
            )

    def _happened(self, name: str, step: int, detail: str) -> None:
        self._events.append(CheckpointEvent(name, step, detail))

    def _forget(self, step: int) -> None:
        self._losses.pop(step, None)
        self._stored.forget(step)

    def _why_none(self) -> str:
        problems = [
            find_obvious_problem(self.directory / str(step)) or "its content is damaged"
            for step in step_folders.named_steps(self.directory)
        ]
        if not problems:
            return f"no complete checkpoint in {self.directory}; train first"
        return f"no whole checkpoint in {self.directory}: {'; '.join(problems[-3:])}"
