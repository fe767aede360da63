"""A folder that appears under its name when all of it is on disk, or not at all."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxgpt.errors import UsageError
from jaxgpt.storage.durable import FolderLock, sync_folder, sync_tree

_LOCK_NAME = ".lock"


def _never(folder: Path) -> bool:
    return False


@contextlib.contextmanager
def new_folder(output: Path, is_ours: Callable[[Path], bool] = _never) -> Iterator[Path]:
    """Yield a folder to write into, next to `output`, which gets that name when the block is left.
    An exception in the block deletes the folder. Remains of a killed process are deleted by the
    next one.

    Args:
        output: the folder.
        is_ours: whether a folder that is there may be replaced.

    Raises:
        UsageError: `output` exists and is not an empty folder, cannot be made, or another process
            is making it.
    """
    temporary = output.absolute().with_name(f".{output.absolute().name}.tmp")
    with FolderLock(temporary):
        try:
            _finish_move(temporary, output)
            _refuse_existing(output, is_ours)
            _clear(temporary)
            yield temporary
            sync_tree(temporary)
            _refuse_existing(output, is_ours)
            (temporary / _LOCK_NAME).unlink()
            _move(temporary, output)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync_folder(output.absolute().parent)


def _move(folder: Path, output: Path) -> None:
    """Give a folder its name; one that has the name already is renamed first, and deleted last."""
    old = _old_name(folder)
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(folder, output)
    shutil.rmtree(old, ignore_errors=True)


def _finish_move(folder: Path, output: Path) -> None:
    """Give a folder its name back that a process had taken from it when it was killed."""
    old = _old_name(folder)
    if old.exists() and not output.exists():
        os.replace(old, output)


def _old_name(folder: Path) -> Path:
    return folder.with_suffix(".old")


def _refuse_existing(output: Path, is_ours: Callable[[Path], bool]) -> None:
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not is_ours(output)):
        raise UsageError(
            f"{output} exists and is not an empty folder; choose another --output, or remove it"
        )


def _clear(folder: Path) -> None:
    """Remove everything but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK_NAME:
            path.unlink()
