"""Content of a step's folder apart from arrays, and checks that all of it is as written.

    metadata.json     {"version", "step", "items", "metadata"}
    integrity.json    hashes of every file; since format 2

Format 1 had no hashes; it is read with a warning. This file knows one folder at a time.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.checkpoints.integrity import (
    MANIFEST,
    Damage,
    describe_damage,
    find_damage,
    read_manifest,
)
from jaxgpt.checkpoints.orbax_adapter import is_item_whole
from jaxgpt.errors import MismatchError, is_machine_error

logger = logging.getLogger(__name__)
STEP_VERSION = 2
PARAMS = "params"
TRAINING_STATE = "training_state"
ITEMS = (PARAMS, TRAINING_STATE)
METADATA_FILE = "metadata.json"
_UNHASHED_VERSION = 1
_FACTOR = 1.2


def read_document(folder: Path) -> dict[str, Any]:
    """Return `metadata.json`, compared with its hash.

    Raises:
        MismatchError: it is of a format that this version does not know.
        OSError, ValueError: it is missing, or not what was written.
    """
    if (folder / MANIFEST).exists() and (damage := find_damage(folder, (METADATA_FILE,))):
        raise ValueError(describe_damage(folder, damage))
    document = json.loads((folder / METADATA_FILE).read_text("utf-8"))
    version = document["version"]
    if version not in (STEP_VERSION, _UNHASHED_VERSION):
        raise MismatchError(
            f"{folder} has checkpoint format {version}; this version of jaxgpt reads formats "
            f"{_UNHASHED_VERSION} and {STEP_VERSION}: use the version that wrote it"
        )
    if version == STEP_VERSION and not (folder / MANIFEST).exists():
        raise ValueError(describe_damage(folder, [Damage(MANIFEST, "is missing")]))
    return document


def find_obvious_problem(folder: Path) -> str | None:
    """Describe why a folder is not a whole step, as far as names, sizes and small files show. Array
    files are not read; only their presence and size are compared. Steps of a newer format are not
    checked here; reading one raises MismatchError.
    """
    try:
        document = read_document(folder)
        if document["version"] == STEP_VERSION:
            damage = find_damage(folder, unread=ITEMS)
        else:
            parts = [item for item in document["items"] if not is_item_whole(folder, item)]
            damage = [Damage(part, "is incomplete") for part in parts]
    except MismatchError:
        return None
    except OSError as error:
        if is_machine_error(error):
            raise
        return f"{folder}: {METADATA_FILE} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{folder}: {METADATA_FILE} is damaged: {error}"
    return describe_damage(folder, damage) if damage else None


def find_content_problem(folder: Path, items: Sequence[str], share: tuple[int, int]) -> str | None:
    """Describe what is wrong with a step; every byte is read, except of items that are not named.

    Args:
        folder: of the step.
        items: `ITEMS`, or some of them; for files of the others, only sizes are compared.
        share: (n, of): read only the n-th of `of` parts; every host passes its own.

    Raises:
        MismatchError: it is of a format that this version does not know.
    """
    try:
        if read_document(folder)["version"] == _UNHASHED_VERSION:
            logger.warning("%s was saved without hashes, so damage cannot be detected", folder)
            return find_obvious_problem(folder)
        unread = [item for item in ITEMS if item not in items]
        if damage := find_damage(folder, unread=unread, share=share):
            return describe_damage(folder, damage)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_machine_error(error):
            raise
        return find_obvious_problem(folder) or f"{folder} is damaged"
    return None


def stored_bytes(folder: Path) -> int | None:
    """Return the bytes that a step takes; None if its manifest does not tell."""
    try:
        manifest = read_manifest(folder)
    except MismatchError:
        return None
    if isinstance(manifest, Damage):
        return None
    return sum(entry.bytes for entry in manifest.values())


def find_shortage(
    directory: Path, newest: int | None, items: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Return a message if there is no room for a step, else None.

    Args:
        directory: of the checkpoints. newest: the last complete step, whose size is the best
            forecast.
        items: arrays by name, by item; their sizes are the next best.
    """
    arrays = (array for named in items.values() for array in named.values())
    size = None if newest is None else stored_bytes(directory / str(newest))
    needed = int(_FACTOR * (size or sum(array.nbytes for array in arrays)))
    free = shutil.disk_usage(directory).free
    if free >= needed:
        return None
    return f"{free:,} bytes are free on its disk and {needed:,} may be needed"
