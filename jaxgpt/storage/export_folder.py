"""The folder of an export: it appears when all of it is on disk, and replaces an earlier export."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxgpt.storage.durable import write_json
from jaxgpt.storage.new_folder import new_folder

MARKER = "jaxgpt_export.json"
_VERSION = 1


@contextlib.contextmanager
def export_folder(output: Path, about: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to write an export into, which gets its name when the block is left.

    Args:
        output: the folder.
        about: origin of the export, written last.

    Raises:
        UsageError: `output` is something else than an export, and not empty.
    """
    with new_folder(output, is_ours=is_export) as folder:
        yield folder
        marker = {"version": _VERSION, **about, "files": sorted(_names(folder))}
        write_json(folder / MARKER, marker)


def is_export(folder: Path) -> bool:
    """Return whether a folder has the files of an export, and no other."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        return _names(folder) <= {MARKER, *marker["files"]}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


def _names(folder: Path) -> set[str]:
    """Return names in a folder; those with a dot before them are not an export's."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
