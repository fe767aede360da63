"""A stand-in for an object store, in this process: `stand-in://...`, and faults put into it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

URL = "stand-in://bucket/run"


class StandInStore(MemoryFileSystem):
    """Objects in memory. `before(operation, path)` is called before each operation, and may raise.

    Operations: list, read, write, upload, download, delete.
    """

    protocol = "stand-in"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before: ClassVar[Callable[[str, str], None]] = staticmethod(lambda operation, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("stand-in://").strip("/")

    def find(self, path: str, *arguments: Any, **named: Any) -> Any:
        StandInStore.before("list", path)
        return super().find(path, *arguments, **named)

    def cat_file(self, path: str, *arguments: Any, **named: Any) -> bytes:
        StandInStore.before("read", path)
        return super().cat_file(path, *arguments, **named)

    def pipe_file(self, path: str, value: bytes, *arguments: Any, **named: Any) -> None:
        StandInStore.before("write", path)
        super().pipe_file(path, value, *arguments, **named)

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **named: Any) -> None:
        StandInStore.before("upload", rpath)
        super().put_file(lpath, rpath, *arguments, **named)

    def get_file(self, rpath: str, lpath: str, *arguments: Any, **named: Any) -> None:
        StandInStore.before("download", rpath)
        super().get_file(rpath, lpath, *arguments, **named)

    def rm_file(self, path: str) -> None:
        StandInStore.before("delete", path)
        if path not in self.store:
            raise FileNotFoundError(path)
        del self.store[path]


fsspec.register_implementation("stand-in", StandInStore, clobber=True)


def empty() -> None:
    """Remove all objects, and the faults."""
    StandInStore.store.clear()
    StandInStore.pseudo_dirs[:] = [""]
    StandInStore.before = staticmethod(lambda operation, path: None)


@contextmanager
def before_each(act: Callable[[str, str], None]) -> Iterator[None]:
    """Within the context, `act` is called before each operation."""
    StandInStore.before = staticmethod(act)
    try:
        yield
    finally:
        StandInStore.before = staticmethod(lambda operation, path: None)


def content() -> dict[str, bytes]:
    """All objects' content, by their paths in the run folder."""
    root = StandInStore._strip_protocol(URL) + "/"
    return {
        name.removeprefix(root): file.getvalue()
        for name, file in sorted(StandInStore.store.items())
        if name.startswith(root)
    }


def flip_bit(path: str) -> None:
    """Change one bit in the middle of an object."""
    file = StandInStore.store[f"{StandInStore._strip_protocol(URL)}/{path}"]
    changed = bytearray(file.getvalue())
    changed[len(changed) // 2] ^= 4
    file.seek(0)
    file.write(bytes(changed))
    file.seek(0)
