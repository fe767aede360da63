"""Whether a disk has room for one more step, asked before it is written."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.checkpoints.step_content import stored_bytes

_FACTOR = 1.2


def find_shortage(
    directory: Path, newest: int | None, items: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Say that there is no room, or return None.

    Args:
        directory: of the checkpoints.
        newest: the last complete step, whose size is the best forecast.
        items: arrays by name, by item; their sizes are the next best.
    """
    arrays = (array for named in items.values() for array in named.values())
    size = None if newest is None else stored_bytes(directory / str(newest))
    needed = int(_FACTOR * (size or sum(array.nbytes for array in arrays)))
    free = shutil.disk_usage(directory).free
    if free >= needed:
        return None
    return f"{free:,} bytes are free on its disk and {needed:,} may be needed"
