"""A folder at a URL: objects that are listed, read, written whole and deleted, and nothing else.

That is what an object store can do, and whatever fsspec reaches (`gs://`, `s3://`, ...):
no rename, no lock, no appending. Stores fail for moments, so everything is tried some times.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jaxgpt.errors import UnfinishedError, UsageError
from jaxgpt.names.packages import install_advice
from jaxgpt.storage.file_store import FolderStore

# Before the second and the third attempt.
WAITS_SECONDS = (1.0, 4.0)
_CHUNK_BYTES = 1 << 20
# What is so at the first attempt is so at the third.
_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}

T = TypeVar("T")


class StoreError(UnfinishedError):
    """The store did not do what it was asked, some times over; says which object and why."""


def is_url(place: str) -> bool:
    """Return whether a run folder is given as a URL rather than as a path."""
    return "://" in place


class RemoteFolder:
    """All objects whose names begin with one URL; paths are relative to it, with `/`.

    Args:
        url: of the folder, such as gs://bucket/runs/base; it need not exist.

    Raises:
        UsageError: no such kind of URL is known, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store, root = _open_store(self.url)
        self._root = root.rstrip("/")

    def list(self, within: str = "") -> dict[str, int]:
        """Return the sizes in bytes of all objects below a path of this folder."""
        top = self._name(within)

        def find() -> dict[str, Any]:
            self._store.invalidate_cache()  # What it remembers may be long past.
            try:
                return self._store.find(top, detail=True)
            except FileNotFoundError:
                return {}

        return {
            name.removeprefix(f"{self._root}/"): int(about["size"] or 0)
            for name, about in self._attempt(within or ".", find).items()
            if name.startswith(f"{top}/") and about["type"] == "file"
        }

    def read(self, path: str) -> bytes:
        """Return an object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._attempt(path, lambda: self._store.cat_file(self._name(path)))

    def read_by(self, path: str, consume: Callable[[Iterator[bytes]], T]) -> T:
        """Give an object's content to a function, piece by piece; again from the start on failure.

        Raises:
            FileNotFoundError: there is none.
        """

        def read() -> T:
            with self._store.open(self._name(path), "rb") as file:
                return consume(iter(lambda: file.read(_CHUNK_BYTES), b""))

        return self._attempt(path, read)

    def write(self, path: str, content: bytes) -> None:
        """Make or replace an object."""
        self._attempt(path, lambda: self._store.pipe_file(self._name(path), content))

    def create(self, path: str, content: bytes) -> bool:
        """Make an object unless there is one; return whether it was made.

        One of several that try at once succeeds where the store can decide that: Google's and
        Amazon's do, of fsspec's other kinds not all.

        Raises:
            UsageError: there is no such bucket.
        """
        try:
            self._attempt(
                path, lambda: self._store.pipe_file(self._name(path), content, mode="create")
            )
        except FileExistsError:
            return False
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(
                f"{self.url}: {error}; create it first, or give another URL"
            ) from error
        return True

    def upload(self, file: Path, path: str) -> None:
        """Make or replace an object with a file's content."""
        self._attempt(path, lambda: self._store.put_file(str(file), self._name(path)))

    def download(self, path: str, file: Path) -> None:
        """Write an object's content to a file, whose folder exists.

        Raises:
            FileNotFoundError: there is no such object.
        """
        self._attempt(path, lambda: self._store.get_file(self._name(path), str(file)))

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects, in this order; those that are not there are passed over."""
        for path in paths:
            with suppress(FileNotFoundError):
                self._attempt(path, partial(self._store.rm_file, self._name(path)))

    def remove_leftovers(self) -> None:
        """Remove what killed writers have left in a store that is a folder; others have nothing."""
        if isinstance(self._store, FolderStore):
            self._store.remove_leftovers(self._root)

    def _name(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _attempt(self, path: str, act: Callable[[], T]) -> T:
        for wait in (*WAITS_SECONDS, None):
            try:
                return act()
            except _LASTING:
                raise
            except Exception as error:  # Each store raises its own kinds.
                if wait is None:
                    what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    raise StoreError(f"{self.url}/{path}: {what}") from error
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def missing_package(url: str, error: ImportError) -> str:
    """Return what a URL that fsspec knows lacks on this machine, and the advice."""
    extra = _EXTRAS.get(url.partition("://")[0])
    advice = f"; {install_advice(extra)}" if extra else ""
    return f"a package is missing ({' '.join(str(error).split())}){advice}"


def _open_store(url: str) -> tuple[Any, str]:
    scheme, _, path = url.partition("://")
    if scheme in ("file", "local"):
        return FolderStore(), str(Path(path).expanduser().absolute())

    import fsspec  # Only whoever gives another URL waits for it.

    try:
        return fsspec.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: {missing_package(url, error)}") from error
    except ValueError as error:
        raise UsageError(
            f"{url}: {error}; give a path, or a URL that fsspec knows, such as gs:// or s3://"
        ) from error
