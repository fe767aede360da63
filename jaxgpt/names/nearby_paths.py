"""Paths on the disk that a wrong path may have meant: for the end of an error message.

Only names are looked at, near the path and in the folders where runs, datasets and configs usually
are; nothing is opened.
"""

import difflib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

_SHOWN = 3
_READ_AT_MOST = 1000


def is_run(path: Path) -> bool:
    """Return whether a folder looks like a run folder."""
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def is_dataset(path: Path) -> bool:
    """Return whether a folder looks like a finished dataset."""
    return (path / "manifest.json").is_file() and (path / "tokenizer").is_dir()


def is_config(path: Path) -> bool:
    """Return whether a path looks like a config file."""
    return path.suffix in (".py", ".json") and path.is_file()


def describe_nearby_runs(path: Path) -> str:
    """Return `"; did you mean runs/mine?"`, or the runs that there are, or how to make one."""
    return _describe(path, is_run, "runs/*") or "; `jaxgpt train --config FILE` writes one"


def describe_nearby_datasets(path: Path) -> str:
    """Return `"; did you mean data/mine?"`, or the datasets that there are, or ""."""
    return _describe(path, is_dataset, "data/*", "runs/*/data")


def describe_nearby_configs(path: Path) -> str:
    """Return `"; did you mean configs/base.py?"`, or the configs that there are, or ""."""
    return _describe(path, is_config, "configs/*")


def describe_nearby_files(path: Path) -> str:
    """Return `"; did you mean texts?"` for a file or folder of a similar name, or ""."""
    close = _closest(path, _list(path.parent, "*"))
    return f"; did you mean {close}?" if close else ""


def _describe(path: Path, is_wanted: Callable[[Path], bool], *patterns: str) -> str:
    around = [parent for parent in path.parents if is_wanted(parent)]
    if around:
        return f"; did you mean {around[0]}?"
    inside = [each for each in _list(path, "*") if is_wanted(each)]
    elsewhere = [*_list(path.parent, "*"), *(each for one in patterns for each in _list(".", one))]
    elsewhere = [each for each in elsewhere if is_wanted(each)]
    meant = inside[0] if len(inside) == 1 else _closest(path, elsewhere)
    if meant is not None:
        return f"; did you mean {meant}?"
    found = list(dict.fromkeys([*inside, *elsewhere]))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"; there are {', '.join(map(str, found[:_SHOWN]))}{more}" if found else ""


def _closest(path: Path, candidates: Sequence[Path]) -> Path | None:
    """Return the candidate whose name, with or without its suffix, is most like the path's."""
    by_name = {name: each for each in reversed(candidates) for name in (each.name, each.stem)}
    close = difflib.get_close_matches(path.name, by_name, n=1)
    return by_name[close[0]] if close else None


def _list(folder: str | Path, pattern: str) -> list[Path]:
    """Return the paths that match, sorted; none in a folder that cannot be read, as for a hint."""
    try:
        return sorted(islice(Path(folder).glob(pattern), _READ_AT_MOST))
    except OSError:
        return []
