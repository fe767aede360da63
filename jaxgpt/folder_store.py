"""A folder of a file system as an object store, `file://`: an object is whole, or not there.

What fsspec has for it opens a file and then writes: whoever is killed in between leaves half of it,
in the place of what was there. The methods are those of fsspec's stores that are needed.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxgpt.durable import sync_file, sync_folder, temporary_name, write_atomically


class FolderStore:
    """Objects are files, under their paths; folders are made as needed."""

    def invalidate_cache(self) -> None:
        """Do nothing: nothing is remembered."""

    def find(self, path: str, detail: bool = True) -> dict[str, dict[str, Any]]:
        """Return the size and type of all files below a path."""
        return {name: {"size": size, "type": "file"} for name, size in _files_below(path)}

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
        file = _in_a_folder(path)
        if mode == "create":
            with open(file, "xb") as new:
                new.write(content)
        else:
            write_atomically(file, content)

    def put_file(self, source: str, path: str) -> None:
        """Make or replace a file with another's content."""
        file = _in_a_folder(path)
        temporary = temporary_name(file)
        try:
            shutil.copyfile(source, temporary)
            sync_file(temporary)
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(file.parent)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        os.remove(path)


def _in_a_folder(path: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _files_below(path: str) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield f"{folder}/{name}", os.stat(f"{folder}/{name}").st_size
            except FileNotFoundError:  # Removed, or renamed, meanwhile.
                continue
