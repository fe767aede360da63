"""Saves that may fail: each failure is logged and counted, and too many in a row are raised. A disk
that is full for a while costs checkpoints, not the training. A save that fails on one host counts
as failed on all, so that their counts agree.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxgpt.checkpoints.housekeeping import CheckpointEvent
from jaxgpt.checkpoints.saver import Saver
from jaxgpt.checkpoints.stored_steps import StoredSteps, describe_failure
from jaxgpt.distributed.hosts import gather
from jaxgpt.errors import JaxgptError

logger = logging.getLogger(__name__)


class SaveAttempts:
    """Starts saves, counts failed ones and returns events.

    All hosts make the same calls in the same order.

    Args:
        directory: of the checkpoints, for messages.
        saver: does the saving.
        stored: existing steps, for messages.
        allowed: number of failures in a row that is raised.
    """

    def __init__(self, directory: Path, saver: Saver, stored: StoredSteps, allowed: int) -> None:
        self._directory = directory
        self._saver = saver
        self._stored = stored
        self._allowed = allowed
        self._step = 0
        self._failure: JaxgptError | None = None
        self._failures_in_a_row = 0
        self._own_succeeded = False

    def start(
        self,
        step: int,
        items: Mapping[str, Mapping[str, Any]],
        document: Mapping[str, Any],
        obstacle: str | None,
    ) -> list[CheckpointEvent]:
        """Begin a save, after `settle`; return its failure if it has not begun.

        Args:
            step: which.
            items: arrays by name, by item.
            document: what `metadata.json` will hold.
            obstacle: reason to fail before the save begins, if any.
        """
        self._step = step
        problem = (
            obstacle
            or _problem_at_any_host(lambda: self._saver.prepare(step))
            or _problem_at_any_host(lambda: self._saver.begin(step, items))
        )
        if not problem:
            self._saver.go_on(step, document)
            return []
        if not obstacle:
            self._saver.give_up(step)
        return [self._fail(problem)]

    def settle(self) -> list[CheckpointEvent]:
        """Wait for the save under way, on all hosts; a failure on one host is a failure."""
        own_problem, events = self._settle_own()
        if problem := next(filter(None, gather("the last save", own_problem)), None):
            events.append(self._fail(problem))
        elif self._own_succeeded:  # and so has that of every other host
            self._failures_in_a_row, self._failure = 0, None
        self._own_succeeded = False
        return events

    def settle_here(self) -> list[CheckpointEvent]:
        """Wait for the save under way, on this host alone."""
        problem, events = self._settle_own()
        if problem:
            events.append(self._fail(problem))
        elif self._own_succeeded:
            self._failure = None
        return events

    def raise_last_failure(self) -> None:
        """Raise if the last save has failed and that was not raised yet."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End the threads, after `settle_here`."""
        self._saver.close()

    def forgive(self) -> None:
        """Forget the last failure, because the run rolls back behind it."""
        self._failure = None

    def raise_if_too_many(self) -> None:
        """Raise if too many saves in a row have failed, and reset the count."""
        if self._failures_in_a_row >= self._allowed:
            self._failures_in_a_row, failure, self._failure = 0, self._failure, None
            raise JaxgptError(f"{self._allowed} saves in a row have failed; {failure}")

    def _settle_own(self) -> tuple[str, list[CheckpointEvent]]:
        """Wait for the save under way; return why it failed here ("" if it did not), and events."""
        ended = self._saver.settle()
        if ended is None:
            return "", []
        self._own_succeeded = ended.error is None
        problem = "" if ended.error is None else describe_failure(ended.error)
        return problem, list(ended.events)

    def _fail(self, problem: str) -> CheckpointEvent:
        newest = max(self._stored.complete(), default=None)
        self._failure = JaxgptError(
            f"could not save step {self._step} in {self._directory}: {problem}; the newest "
            f"complete checkpoint is {'none' if newest is None else f'step {newest}'}"
        )
        self._failures_in_a_row += 1
        logger.warning("%s", self._failure)
        return CheckpointEvent("save_failed", self._step, problem)


def _problem_at_any_host(act: Callable[[], None]) -> str:
    """Run a function on all hosts; return the error of the first host where it failed."""
    problem = ""
    try:
        act()
    except Exception as error:
        problem = describe_failure(error)
    return next(filter(None, gather("the start of a save", problem)), "")
