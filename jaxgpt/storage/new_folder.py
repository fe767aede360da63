"""A folder that appears under its name when all of it is on disk, or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxgpt.errors import UsageError
from jaxgpt.storage.durable import FolderLock, sync_folder, sync_tree

_LOCK_NAME = ".lock"


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write into, next to `output`, which gets that name when the block is left.
    An exception in the block deletes the folder. Remains of a killed process are deleted by the
    next one.

    Raises:
        UsageError: `output` exists and is not an empty folder, cannot be made, or another process
            is making it.
    """
    _refuse_existing(output)
    temporary = output.absolute().with_name(f".{output.absolute().name}.tmp")
    with FolderLock(temporary):
        try:
            _clear(temporary)
            yield temporary
            sync_tree(temporary)
            _refuse_existing(output)
            (temporary / _LOCK_NAME).unlink()
            os.replace(temporary, output)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync_folder(output.absolute().parent)


def _refuse_existing(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir() or any(output.iterdir()):
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
