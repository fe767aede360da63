"""Glob patterns that pass over no folder that cannot be read."""

import glob
import os
from collections.abc import Iterator


def list_matches(pattern: str) -> list[str]:
    """Return what `glob.glob` does, with `**` for any folders.

    Raises:
        OSError: a folder cannot be listed; `glob` takes it for an empty one.
    """
    for folder in _searched(pattern):
        os.scandir(folder).close()
    return glob.glob(pattern, recursive=True)


def _searched(pattern: str) -> Iterator[str]:
    """Yield the folders whose contents a pattern is compared with."""
    parent, name = os.path.split(pattern)
    if not glob.has_magic(pattern):
        return
    if parent != pattern:
        yield from _searched(parent)
    if glob.has_magic(name):
        folders = pattern if name == "**" else parent or os.curdir
        yield from glob.glob(os.path.join(folders, ""), recursive=True)
