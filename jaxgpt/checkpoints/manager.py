"""Checkpoints of a run: save in the background, find, restore on any devices.

A step counts once all of it is durable and hashed: it is written under another name (`saver.py`),
then renamed (`step_folders.py`). Files are compared with their hashes before they are read
(`integrity.py`).

    checkpoints/100/params/ training_state/     arrays, as Orbax writes them
    checkpoints/100/metadata.json               {"version", "step", "items", "metadata"}
    checkpoints/100/integrity.json              hashes of all of it
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.housekeeping import CheckpointEvent, Housekeeping
from jaxgpt.checkpoints.named_trees import named_arrays
from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles
from jaxgpt.checkpoints.retention import comparable_losses, rank_by_loss
from jaxgpt.checkpoints.save_barrier import SaveBarrier
from jaxgpt.checkpoints.save_retries import SaveAttempts
from jaxgpt.checkpoints.saver import Saver
from jaxgpt.checkpoints.step_content import (
    ITEMS,
    PARAMS,
    STEP_VERSION,
    TRAINING_STATE,
    find_obvious_problem,
    find_shortage,
)
from jaxgpt.checkpoints.stored_steps import StoredSteps
from jaxgpt.distributed.hosts import broadcast_from_first
from jaxgpt.errors import NoCheckpointError

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in one directory. One writer at a time; any number of readers.

    All of several hosts make the same calls in the same order.

    Args:
        directory: one folder per step; made unless `read_only`.
        config: checkpoints to keep.
        read_only: never write, nor create, nor rename anything.
        copy: called in the thread, on the first host, when a step counts and old ones are deleted;
            what it returns went wrong, and is no failure of the save.

    Raises:
        UsageError: the directory cannot be written.
    """

    def __init__(
        self,
        directory: str | Path,
        config: CheckpointConfig,
        read_only: bool = False,
        copy: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.directory = Path(directory)
        self._read_only = read_only
        self._events: list[CheckpointEvent] = []
        barrier = SaveBarrier()
        files = OrbaxFiles(barrier.wait)
        self._stored = StoredSteps(self.directory, files)
        housekeeping = Housekeeping(self.directory, self._stored, config, copy)
        saver = Saver(self.directory, files, barrier, housekeeping)
        self._attempts = SaveAttempts(self.directory, saver, self._stored, config.max_failed_saves)
        if not read_only and jax.process_index() == 0:
            step_folders.prepare(self.directory, find_obvious_problem)

    def save(self, step: int, params: Any, training_state: Any, metadata: dict[str, Any]) -> bool:
        """Begin saving; returns once the arrays may be donated, long before the save counts.

        The call waits for the save before it, and does nothing if the step is saved already. A save
        that fails or finds no room is logged and counted, and training continues, because the next
        save may succeed.

        Args:
            step: what the checkpoint is called; steps done.
            params: pytree of arrays.
            training_state: pytree of all other arrays that a resume needs.
            metadata: JSON values; `eval_loss`, if any, decides which checkpoint is best among those
                with equal `eval_settings`.

        Returns:
            Whether the step is saved or being saved.

        Raises:
            JaxgptError: too many saves in a row have failed.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened read-only")
        # A copy by way of JSON: what is not JSON fails here rather than in the thread.
        document = {"version": STEP_VERSION, "step": step, "items": [], "metadata": metadata}
        document = json.loads(json.dumps(document))
        self._events += self._attempts.settle()
        self._attempts.raise_if_too_many()
        if step in self.steps():
            return True
        arrays = {PARAMS: named_arrays(params), TRAINING_STATE: named_arrays(training_state)}
        items = {item: named for item, named in arrays.items() if named}
        document["items"] = list(items)
        shortage = None
        if jax.process_index() == 0:
            shortage = find_shortage(self.directory, self.latest(), items)
        shortage = broadcast_from_first("free space", shortage)
        failures = self._attempts.start(step, items, document, shortage)
        self._events += failures
        self._attempts.raise_if_too_many()
        return not failures

    def wait(self) -> None:
        """Wait until the last save counts.

        Raises:
            JaxgptError: it failed; it is named, with the newest step that there is.
        """
        self._events += self._attempts.settle_here()
        self._attempts.raise_last_failure()

    def close(self) -> None:
        """Wait for the last save and end the threads; raise as `wait` does."""
        try:
            self.wait()
        finally:
            self._attempts.close()

    def take_events(self) -> list[CheckpointEvent]:
        """Return the events since the last call, for the run's log."""
        events, self._events = self._events, []
        return events

    def steps(self) -> list[int]:
        """Return the complete steps, ascending, without one that is still being saved."""
        return self._stored.complete()

    def latest(self) -> int | None:
        """Return the newest complete step, or None. Its arrays are not read."""
        return max(self.steps(), default=None)

    def latest_verified(self, before: int | None = None) -> int | None:
        """Return the newest step whose every byte is as saved; None if there is none. Damaged steps
        found on the way are renamed to `damaged-STEP`, or skipped with a warning if this was opened
        read-only.

        Args:
            before: only steps before this one.
        """
        self._events += self._attempts.settle()
        steps = [step for step in self.steps() if before is None or step < before]
        return self._first_whole(steps[::-1], ITEMS)

    def abandon_after(self, step: int) -> list[int]:
        """Set aside all steps after `step`, so that no search finds them; return them. A run that
        rolls back calls this. The steps are kept as `abandoned-STEP` until the run has passed them
        again.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened read-only")
        self._events += self._attempts.settle()
        self._attempts.forgive()
        later = [number for number in step_folders.named_steps(self.directory) if number > step]
        later = broadcast_from_first("checkpoints to abandon", later)
        for number in reversed(later):  # The newest first: a kill leaves no gap.
            if jax.process_index() == 0:
                step_folders.abandon(self.directory, number)
            self._happened("abandon", number, f"went back to step {step}")
            self._stored.forget(number)
        # No host looks before the first one has renamed.
        broadcast_from_first("abandoned checkpoints", None)
        return later

    def best(self) -> int | None:
        """Return the step of the lowest finite `eval_loss` measured like the newest, or None."""
        evaluations = self._stored.evaluations()
        ranked = rank_by_loss(evaluations, comparable_losses(evaluations))
        return ranked[0] if ranked else None

    def resolve(self, name: str | int) -> int:
        """Turn "latest", "best" or a number into a step whose parameters are whole.

        Damaged steps are skipped with a warning, but one named by its number must be whole.

        Raises:
            NoCheckpointError: there is none, or none with an evaluation, or it is damaged: its
                files are named.
            UsageError: `name` is none of these; those that exist are listed.
        """
        if self._stored.is_number(name):
            self._stored.require_whole(int(name), (PARAMS,))
            return int(name)
        step = self._first_whole(self._stored.candidates(name), (PARAMS,))
        if step is None:
            raise NoCheckpointError(self._stored.why_none())
        return step

    def read_metadata(self, step: int) -> dict[str, Any]:
        """Return the `metadata` that the step was saved with."""
        return self._stored.read_metadata(step)

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """Read the parameters only.

        Args:
            step: a complete step.
            abstract_params: pytree of `ShapeDtypeStruct`. Its shardings place each array, on any
                number of devices; an array without one becomes a NumPy array. An array is cast if
                its floating dtype differs from the stored one.

        Raises:
            MismatchError: other names, shapes or dtypes are stored; both sides are named.
            NoCheckpointError: the files are damaged or cannot be read.
        """
        return self._stored.restore(step, {PARAMS: abstract_params})[PARAMS]

    def restore(
        self, step: int, abstract_params: Any, abstract_training_state: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Read (params, training_state, metadata), exactly as saved. The call is like
        `restore_params`, but dtypes must be equal, too.
        """
        wanted = {PARAMS: abstract_params, TRAINING_STATE: abstract_training_state}
        trees = self._stored.restore(step, wanted)
        return trees[PARAMS], trees[TRAINING_STATE], self.read_metadata(step)

    def _first_whole(self, candidates: Iterable[int], items: Sequence[str]) -> int | None:
        """Return the first whole step, or None; leave out the damaged ones before it."""
        search = self._stored.first_whole(candidates, items)
        for damaged in search.damaged:
            self._leave_out(damaged.step, damaged.problem)
        return search.step

    def _leave_out(self, step: int, problem: str) -> None:
        if self._read_only:
            logger.warning("step %d is skipped because it is damaged: %s", step, problem)
            return
        self._happened("quarantine", step, problem)
        is_renamed = True
        try:
            if jax.process_index() == 0:
                step_folders.quarantine(self.directory, step, problem)
        except OSError as error:
            is_renamed = False
            logger.warning("step %d is damaged and cannot be renamed: %s", step, error.strerror)
        if broadcast_from_first("a damaged checkpoint", is_renamed):
            self._stored.forget(step)

    def _happened(self, name: str, step: int, detail: str) -> None:
        self._events.append(CheckpointEvent(name, step, detail))
