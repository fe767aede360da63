"""The folder of compiled programs, in which none stays that a kill or a full disk cut off.

JAX writes a program in place, and writes none where a file is: of one that is cut off, every later
start says that it cannot be read, and compiles it anew. So what was written since the last start is
looked at, once.
"""

import logging
import os
from pathlib import Path

import jax
import zstandard

logger = logging.getLogger(__name__)

_STAMP = ".looked-at"
_MAGIC = zstandard.FRAME_HEADER


def use_compile_cache(place: str) -> None:
    """Keep compiled programs in a folder, or at a URL; without them if it cannot be written."""
    if "://" not in place:
        try:
            folder = Path(place).expanduser()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            removed = remove_cut_programs(folder)
        except (OSError, RuntimeError) as error:
            logger.warning("no compile cache at %s: %s", place, error)
            return
        if removed:
            logger.info("%s: %d programs were cut off, and are compiled anew", place, len(removed))
        place = str(folder)
    jax.config.update("jax_compilation_cache_dir", place)
    # The defaults skip programs that compile fast; start-up is made of many of those.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def remove_cut_programs(folder: Path) -> list[str]:
    """Remove the programs that cannot be unpacked, of those written since the last call.

    One that another process is just writing goes too: it has it already, and who comes later
    compiles it once more.

    Args:
        folder: what `jax_compilation_cache_dir` names.

    Returns:
        The names of the files that were removed.

    Raises:
        OSError: the folder cannot be read or written.
    """
    stamp = folder / _STAMP
    last = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()  # First: what is written from now on is newer.
    written = (entry for entry in os.scandir(folder) if entry.name.endswith("-cache"))
    removed = []
    for entry in written:
        try:
            if entry.stat().st_mtime_ns >= last and _is_cut(Path(entry).read_bytes()):
                os.unlink(entry)
                removed.append(entry.name)
        except FileNotFoundError:  # Another process was faster.
            continue
    return removed


def _is_cut(content: bytes) -> bool:
    """Whether it is the beginning of something packed by Zstandard, or nothing at all."""
    if not content.startswith(_MAGIC[: len(content)]):
        return False
    try:
        zstandard.ZstdDecompressor().decompress(content)
    except zstandard.ZstdError:
        return True
    return False
