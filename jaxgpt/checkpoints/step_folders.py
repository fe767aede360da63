"""Folders of a checkpoint directory: which steps are complete, how one is committed and deleted.

    100/             a complete step; it got this name by one rename, when all of it was durable
    .saving-200/     being written, or left by a save that was killed
    .deleting-50/    being deleted, or left by a deletion that was killed
    damaged-150/     was named like a step and is not what was written; kept for a person to look
                     at, with the reason in its damaged.json
    abandoned-180/   a step that the run went back from; kept until the run is past it again

This file knows names and renames; what is wrong inside a step, if anything, is told by
`find_problem`, a function of the folder that its callers pass in.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jaxgpt.errors import UsageError
from jaxgpt.storage.durable import sync_folder, write_json

logger = logging.getLogger(__name__)

_SAVING = ".saving-"
_DELETING = ".deleting-"
_DAMAGED = "damaged-"
_ABANDONED = "abandoned-"
REASON_FILE = "damaged.json"

FindProblem = Callable[[Path], str | None]


def staging_folder(directory: Path, step: int) -> Path:
    """Return the folder that a step is written to until it is complete."""
    return directory / f"{_SAVING}{step}"


def step_folder(directory: Path, step: int) -> Path:
    """Return the folder of a complete step."""
    return directory / str(step)


def named_steps(directory: Path) -> list[int]:
    """Return the steps that have a folder, whole or not, in ascending order."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in _numbered(directory, ""))


def complete_steps(directory: Path, find_problem: FindProblem) -> list[int]:
    """Return the complete steps in ascending order; none if the directory does not exist."""
    return [
        step
        for step in named_steps(directory)
        if find_problem(step_folder(directory, step)) is None
    ]


def commit(directory: Path, step: int) -> None:
    """Rename a staging folder, whose files are durable, to the complete step."""
    staging = staging_folder(directory, step)
    for folder, _, _ in os.walk(staging, topdown=False):
        sync_folder(folder)
    os.rename(staging, step_folder(directory, step))
    sync_folder(directory)


def delete(directory: Path, step: int) -> None:
    """Delete a step such that a part of it never stands under its name."""
    doomed = directory / f"{_DELETING}{step}"
    os.rename(step_folder(directory, step), doomed)
    shutil.rmtree(doomed)


def quarantine(directory: Path, step: int, reason: str) -> Path:
    """Rename a damaged step, and record why; return its new path.

    Raises:
        OSError: it cannot be renamed.
    """
    path = step_folder(directory, step)
    number, target = 1, path.with_name(f"{_DAMAGED}{step}")
    while target.exists():
        number += 1
        target = path.with_name(f"{_DAMAGED}{step}-{number}")
    os.rename(path, target)
    logger.warning("%s is incomplete and was renamed to %s: %s", path, target.name, reason)
    try:
        write_json(target / REASON_FILE, {"step": step, "reason": reason})
    except OSError as error:  # Such as a full disk: the name alone keeps it from being used.
        logger.warning("cannot record the reason in %s: %s", target, error.strerror)
    return target


def abandon(directory: Path, step: int) -> Path:
    """Rename a whole step that the run has rolled back behind; return its new path."""
    target = directory / f"{_ABANDONED}{step}"
    if target.exists():
        shutil.rmtree(target)
    os.rename(step_folder(directory, step), target)
    return target


def delete_abandoned(directory: Path, newest: int) -> None:
    """Delete abandoned steps that the run, now at step `newest`, has passed again."""
    for path in _numbered(directory, _ABANDONED):
        if int(path.name.removeprefix(_ABANDONED)) <= newest:
            shutil.rmtree(path)


def discard_staging(directory: Path, step: int) -> None:
    """Delete the files that a failed save of this step has left, if any."""
    staging = staging_folder(directory, step)
    # Orbax writes to a folder with a suffix of its own, and renames that when its part is done.
    for path in [staging, *directory.glob(f"{staging.name}.*")]:
        if path.exists():
            shutil.rmtree(path)


def prepare(directory: Path, find_problem: FindProblem) -> None:
    """Make `directory` and delete the remains of killed saves and deletions.

    Raises:
        UsageError: it cannot be made or written to.
    """
    probe = directory / f".probe-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write checkpoints to {directory}: {error.strerror}; choose a writable folder"
        ) from None
    for path in directory.iterdir():
        if path.name.startswith((_SAVING, _DELETING)):
            shutil.rmtree(path)
    for step in named_steps(directory):
        if reason := find_problem(step_folder(directory, step)):
            quarantine(directory, step, reason)


def step_of(name: str) -> int | None:
    """Return the step of a name of plain digits without a leading zero; None for other names."""
    is_number = name.isascii() and name.isdigit() and str(int(name)) == name
    return int(name) if is_number else None


def _numbered(directory: Path, prefix: str) -> list[Path]:
    """Return the entries named `prefix` and a step."""
    return [
        path
        for path in directory.iterdir()
        if path.name.startswith(prefix) and step_of(path.name.removeprefix(prefix)) is not None
    ]
