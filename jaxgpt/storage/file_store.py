"""A folder of a file system as an object store, `file://`: an object is whole, or not there.
fsspec's own store opens a file and then writes: a process that is killed in between leaves a
partial file in place of the old one. The methods are those of fsspec's stores that are needed.
"""

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from jaxgpt.storage.durable import is_temporary, sync_file, sync_folder, temporary_name

# What is younger may be in use by another process.
_LEFTOVER_SECONDS = 3600.0
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)


class FolderStore:
    """Objects are files, under their paths; folders are made as needed."""

    def invalidate_cache(self) -> None:
        """Do nothing: nothing is remembered."""

    def find(self, path: str, detail: bool = True) -> dict[str, dict[str, Any]]:
        """Return the size and type of all files below a path; none if there is no such folder."""
        return {
            name: {"size": about.st_size, "type": "file"}
            for name, about in _files_below(path)
            if not is_temporary(name)
        }

    def cat_file(self, path: str) -> bytes:
        """Return a file's content."""
        return Path(path).read_bytes()

    def open(self, path: str, mode: str) -> IO[Any]:
        """Open a file."""
        return open(path, mode)

    def get_file(self, path: str, target: str) -> None:
        """Copy a file's content to another."""
        shutil.copyfile(path, target)

    def pipe_file(self, path: str, content: bytes, mode: str = "overwrite") -> None:
        """Make or replace a file; with mode "create", raise FileExistsError if there is one."""
        give_name = _name_if_free if mode == "create" else os.replace
        _write(path, lambda temporary: temporary.write_bytes(content), give_name)

    def put_file(self, source: str, path: str) -> None:
        """Make or replace a file with another's content."""
        _write(path, lambda temporary: shutil.copyfile(source, temporary), os.replace)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        os.remove(path)

    def remove_leftovers(self, path: str) -> None:
        """Remove what kills have left below a path, long ago."""
        for name, about in _files_below(path):
            if is_temporary(name) and time.time() - about.st_mtime > _LEFTOVER_SECONDS:
                with suppress(OSError):
                    os.remove(name)


def _write(
    path: str, fill: Callable[[Path], object], give_name: Callable[[Path, Path], None]
) -> None:
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", error.filename) from None
    temporary = temporary_name(file)
    try:
        fill(temporary)
        sync_file(temporary)
        give_name(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(file.parent)


def _name_if_free(temporary: Path, file: Path) -> None:
    """Give a file its name, unless one has it: FileExistsError."""
    try:
        os.link(temporary, file)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links: whoever is killed just here leaves an empty file.
        with open(file, "xb") as new:
            new.write(temporary.read_bytes())


def _files_below(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield names and attributes of plain files; a folder that cannot be read is an error."""

    def fail(error: OSError) -> None:
        # That nothing is there must not be said of what did not answer.
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, names in os.walk(path, onerror=fail):
        for name in names:
            try:
                about = os.stat(f"{folder}/{name}")
            except OSError as error:  # Removed meanwhile; or a link that leads nowhere.
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                continue
            if stat.S_ISREG(about.st_mode):
                yield f"{folder}/{name}", about
