"""The folder of compiled programs, without those that a kill or a full disk truncated. JAX writes a
program in place, and never replaces a file: every later start would warn that it cannot read a
truncated program, and compile it again. So programs written since the last start are checked once.
"""

import logging
import os
import re
from pathlib import Path

import jax
import zstandard

logger = logging.getLogger(__name__)

_PROGRAM = re.compile(r"-[0-9a-f]{64}-cache")
_STAMP = ".looked-at"
# What is younger may be what another process is just writing; it is left for the next start.
_YOUNG_NS = 60 * 10**9
_PIECE_BYTES = 1 << 20


def use_compile_cache(place: str) -> None:
    """Keep compiled programs in a folder, or at a URL; without them if it cannot be made."""
    if "://" not in place:
        try:
            folder = Path(place).expanduser()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (OSError, RuntimeError) as error:
            logger.warning("no compile cache at %s: %s", place, error)
            return
        _clean(folder)
        place = str(folder)
    jax.config.update("jax_compilation_cache_dir", place)
    # The defaults skip programs that compile fast; start-up is made of many of those.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _clean(folder: Path) -> None:
    try:
        removed = remove_cut_programs(folder)
    except OSError as error:  # Of others, perhaps; programs can be read from there all the same.
        logger.info("%s was not checked: %s", folder, error)
        return
    if removed:
        logger.info("%s: %d programs were truncated and are compiled again", folder, len(removed))


def remove_cut_programs(folder: Path) -> list[str]:
    """Remove the programs that cannot be unpacked, of those written since the last call.

    Args:
        folder: what `jax_compilation_cache_dir` names.

    Returns:
        The names of the files that were removed.

    Raises:
        OSError: the folder cannot be read or written.
    """
    stamp, next_stamp = folder / _STAMP, folder / f"{_STAMP}.{os.getpid()}"
    last = stamp.stat().st_mtime_ns if stamp.exists() else 0
    next_stamp.touch()  # The time by the clock of the storage.
    until = next_stamp.stat().st_mtime_ns - _YOUNG_NS
    removed = []
    for entry in os.scandir(folder):
        if not _PROGRAM.search(entry.name):
            continue
        try:
            if last <= entry.stat().st_mtime_ns < until and _is_cut(Path(entry)):
                os.unlink(entry)
                removed.append(entry.name)
        except OSError as error:
            logger.debug("%s was not checked: %s", entry.path, error)
    # Last: who is killed before has looked at nothing.
    os.utime(next_stamp, ns=(until, until))
    os.replace(next_stamp, stamp)
    return removed


def _is_cut(path: Path) -> bool:
    """Return whether the data is a truncated Zstandard stream, or empty."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    with open(path, "rb") as file:
        start = file.read(len(zstandard.FRAME_HEADER))
        if not zstandard.FRAME_HEADER.startswith(start):
            return False
        file.seek(0)
        try:
            while not unpacker.eof and (piece := file.read(_PIECE_BYTES)):
                unpacker.decompress(piece)
        except zstandard.ZstdError:
            return True
    return not unpacker.eof
