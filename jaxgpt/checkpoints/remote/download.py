"""Parameters of a run at a URL, downloaded to be read; the run may be training meanwhile."""

import atexit
import logging
import shutil
import tempfile
from pathlib import Path

from jaxgpt.checkpoints.integrity import MANIFEST
from jaxgpt.checkpoints.remote.steps import DamagedError, RemoteSteps
from jaxgpt.checkpoints.retention import comparable_losses, describe_left_out, rank_by_loss
from jaxgpt.checkpoints.step_content import TRAINING_STATE
from jaxgpt.checkpoints.step_folders import step_of
from jaxgpt.checkpoints.verification import CHECKPOINTS, RUN_FILES
from jaxgpt.distributed.hosts import broadcast_from_first, gather
from jaxgpt.errors import NoCheckpointError, UsageError
from jaxgpt.storage.remote_folder import RemoteFolder

logger = logging.getLogger(__name__)


def fetch_run(url: str, name: str) -> Path:
    """Copy a run's description and a step's parameters to a folder that is removed at the end. The
    training state, which is twice as large with AdamW, is not copied, so the copy cannot be
    trained. Every host calls this and gets the same step in a folder of its own.

    Args:
        url: of the run.
        name: of the step: latest, best or a number; damaged ones are skipped unless numbered.

    Raises:
        UsageError: there is no such run or step.
        NoCheckpointError: no step has whole parameters, or the requested one has not.
        StoreError: the store does not answer.
    """
    folder = RemoteFolder(url)
    steps = RemoteSteps(folder)
    target = Path(tempfile.mkdtemp(prefix="jaxgpt-run-"))
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    _fetch_description(folder, target)
    candidates = broadcast_from_first("steps at the URL", _candidates(steps, url, name))
    for step in candidates:
        problem = None
        try:
            steps.download(step, target / CHECKPOINTS, without=(TRAINING_STATE,))
        except DamagedError as error:
            problem = str(error)
        problem = next(filter(None, gather(f"step {step} from the URL", problem)), None)
        if problem is None:
            return target
        if step_of(name) is not None:
            raise NoCheckpointError(f"step {step} is damaged: {problem}")
        shutil.rmtree(target / CHECKPOINTS / str(step), ignore_errors=True)
        logger.warning("step %d is skipped because it is damaged: %s", step, problem)
    raise NoCheckpointError(f"no whole checkpoint at {url}; python -m jaxgpt.verify says why")


def _fetch_description(folder: RemoteFolder, target: Path) -> None:
    names = [name for name in folder.list() if name.split("/")[0] in (*RUN_FILES, MANIFEST)]
    if not names:
        raise UsageError(f"no run folder at {folder.url}; python -m jaxgpt.train writes one")
    for name in names:
        path = target / name
        if not path.resolve().is_relative_to(target.resolve()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.download(name, path)


def _candidates(steps: RemoteSteps, url: str, name: str) -> list[int]:
    counted = steps.counted()
    if name == "latest":
        return counted[::-1]
    if name == "best":
        evaluations = {step: steps.read_evaluation(step) for step in counted}
        if left_out := describe_left_out(evaluations):
            logger.warning("best: %s", left_out)
        return rank_by_loss(counted, comparable_losses(evaluations))
    number = step_of(name)
    if number not in counted:
        raise UsageError(
            f"no checkpoint of step {name} at {url}; there are "
            f"{', '.join(map(str, counted)) or 'none'} (or latest, best)"
        )
    return [number]
