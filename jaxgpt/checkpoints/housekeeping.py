"""Delete old checkpoints and copy new ones to a URL, after each step that is committed."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.retention import evaluated_steps_to_keep
from jaxgpt.checkpoints.stored_steps import StoredSteps, describe_error
from jaxgpt.errors import JaxgptError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointEvent:
    """Event of a checkpoint: "quarantine", "abandon", "save_failed" or "copy_failed"."""

    name: str
    step: int
    detail: str


class Housekeeping:
    """Work that follows a commit; it runs in the saving thread, on the first host.

    Args:
        directory: of the checkpoints.
        stored: the steps that there are.
        config: what to keep.
        copy: copies what is there to where the run lives; returns what went wrong, if anything.
    """

    def __init__(
        self,
        directory: Path,
        stored: StoredSteps,
        config: CheckpointConfig,
        copy: Callable[[], str | None],
    ) -> None:
        self._directory = directory
        self._stored = stored
        self._config = config
        self._copy = copy

    def run(self, step: int) -> list[CheckpointEvent]:
        """Delete and copy, now that `step` is committed; return what went wrong, raise nothing."""
        self._delete_old()
        problem = self._copy()
        return [CheckpointEvent("copy_failed", step, problem)] if problem else []

    def _delete_old(self) -> None:
        """Delete the steps that the config does not keep.

        The newest step was read back from the storage, so at least one whole step always stays.
        """
        try:
            evaluations = self._stored.evaluations()
            steps, config = list(evaluations), self._config
            keep = evaluated_steps_to_keep(
                evaluations, config.keep_latest, config.keep_every_steps, config.keep_best
            )
            for doomed in sorted(set(steps) - keep):
                step_folders.delete(self._directory, doomed)
            step_folders.delete_abandoned(self._directory, steps[-1])
        except (OSError, JaxgptError) as error:
            logger.warning("cannot delete an old checkpoint: %s", describe_error(error))
