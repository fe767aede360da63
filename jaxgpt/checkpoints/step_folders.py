"""The folders of a checkpoint directory: what is complete, how one appears and disappears.

    100/            a complete step; it got this name by one rename, when all of it was durable
    .saving-200/    being written, or left by a save that was killed
    .deleting-50/   being deleted, or left by a deletion that was killed
    damaged-150/    was named like a step and is not a whole one; kept for a person to look at

This file knows names and renames; what lies inside a step is told by `is_whole`, a function of
the folder that its callers pass in.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jaxgpt.durable import sync_folder
from jaxgpt.errors import UsageError

logger = logging.getLogger(__name__)

_SAVING = ".saving-"
_DELETING = ".deleting-"
_DAMAGED = "damaged-"

IsWhole = Callable[[Path], bool]


def staging_folder(directory: Path, step: int) -> Path:
    """Where a step is written until it is complete."""
    return directory / f"{_SAVING}{step}"


def step_folder(directory: Path, step: int) -> Path:
    """Where a complete step is."""
    return directory / str(step)


def complete_steps(directory: Path, is_whole: IsWhole) -> list[int]:
    """Return the complete steps in ascending order; none if the directory does not exist."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in _step_like(directory) if is_whole(path))


def commit(directory: Path, step: int) -> None:
    """Make a fully written staging folder durable, then the complete step, in one rename."""
    staging = staging_folder(directory, step)
    for folder, _, files in os.walk(staging, topdown=False):
        for name in files:
            _sync_file(Path(folder) / name)
        sync_folder(folder)
    os.rename(staging, step_folder(directory, step))
    sync_folder(directory)


def delete(directory: Path, step: int) -> None:
    """Remove a step such that no moment shows a part of it under its name."""
    doomed = directory / f"{_DELETING}{step}"
    os.rename(step_folder(directory, step), doomed)
    shutil.rmtree(doomed)


def discard_staging(directory: Path, step: int) -> None:
    """Remove what a failed save of this step has left, if anything."""
    staging = staging_folder(directory, step)
    # Orbax writes to a folder with a suffix of its own, and renames that when its part is done.
    for path in [staging, *directory.glob(f"{staging.name}.*")]:
        if path.exists():
            shutil.rmtree(path)


def prepare(directory: Path, is_whole: IsWhole) -> None:
    """Make `directory` ready to be written: it exists, and killed work is cleared away.

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
    for path in _step_like(directory):
        if not is_whole(path):
            _set_aside(path)


def _step_like(directory: Path) -> list[Path]:
    """Entries named as `step_folder` names them: plain digits, no leading zero."""
    return [
        path
        for path in directory.iterdir()
        if path.name.isascii() and path.name.isdigit() and str(int(path.name)) == path.name
    ]


def _set_aside(path: Path) -> None:
    number, target = 1, path.with_name(f"{_DAMAGED}{path.name}")
    while target.exists():
        number += 1
        target = path.with_name(f"{_DAMAGED}{path.name}-{number}")
    os.rename(path, target)
    logger.warning("%s is not a whole checkpoint; renamed it to %s", path, target.name)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
