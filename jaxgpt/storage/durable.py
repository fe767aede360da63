"""Writing so that a crash leaves the old state or the new one, never something between.

Atomic files (temporary name, fsync, rename), hashes, and the lock of a folder with one writer.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import socket
from collections import deque
from pathlib import Path
from typing import IO, Any

from jaxgpt.errors import UsageError

logger = logging.getLogger(__name__)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write `content` to `path` such that a reader sees all of it or the file that was there."""
    path = Path(path)
    temporary = temporary_name(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """Return where a file is written before it gets its name; a kill can leave it there.

    No two writers are given the same, be they threads, or hosts with a process of the same number.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: str) -> bool:
    """Return whether a file is one of `temporary_name`."""
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class RecordFile:
    """Appends records to a file, each at once; what a full disk refuses is kept, and written later.

    Args:
        path: the file; made if need be.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._waiting: deque[bytes] = deque()
        self._is_told = False

    def append(self, record: bytes) -> None:
        """Write a record, after all that wait; a kill of the process loses nothing of it."""
        self._waiting.append(record)
        self._write()

    def close(self) -> None:
        """Write what waits; records for which there still is no room are lost, with a warning."""
        self._write()
        self._file.close()
        if self._waiting:
            lost = len(self._waiting)
            logger.warning("%d records for %s are lost: no room", lost, self._path)

    def _write(self) -> None:
        try:
            while self._waiting:
                rest = self._waiting[0][self._file.write(self._waiting[0]) :]
                if rest:
                    self._waiting[0] = rest
                else:
                    self._waiting.popleft()
            self._is_told = False
        except OSError as error:
            if not self._is_told:
                logger.warning("cannot write to %s: %s; continuing", self._path, error.strerror)
            self._is_told = True


def sync_folder(path: str | Path) -> None:
    """Make renames inside a folder durable, where the file system can do that to folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder durable, files and names."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)


def sync_file(path: str | Path, forget: bool = False) -> None:
    """Make the content of a file durable.

    Args:
        path: the file.
        forget: also drop it from the system's cache, as far as the system does: the next read is
            of the storage itself.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if forget and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def hash_file(path: str | Path) -> str:
    """Return SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderLock:
    """One writer per folder: held as an advisory lock on `.lock`, released when the process ends.

    Raises:
        UsageError: another process holds it (its host and process id are named), or the folder
            cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._file: IO[str] | None = None

    def __enter__(self) -> "FolderLock":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._folder / ".lock", "a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"cannot write to {self._folder}: {error.strerror}; choose a writable folder"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise UsageError(
                f"{self._folder} is being written by {owner}; wait for it or choose another folder"
            ) from None
        self._file.truncate(0)
        self._file.write(f"host {socket.gethostname()}, process {os.getpid()}")
        self._file.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None
