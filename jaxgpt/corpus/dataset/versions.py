"""Atomic replacement of a finished dataset by its next version.

Shards are never changed; new ones get numbers that no shard has had. The other files are prepared
in a folder, which gets the name `.next` when all of it is on disk. From then on the next version is
decided: its files are moved to their places, the manifest last, and shards that it does not name
are removed. The next change of the dataset first finishes an interrupted one.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.data.manifest import MANIFEST, Shard, read_manifest
from jaxgpt.data.shards import index_path
from jaxgpt.storage.durable import sync_folder, sync_tree

# What an entry of the history calls the numbers of the next shards, by split.
FREE_NUMBERS = "free_shard_numbers"
NEXT = ".next"
_PREPARED = ".next.tmp"
_SHARD_NAME = re.compile(r"shard-(\d+)\.bin")


@contextlib.contextmanager
def next_version(dataset: Path) -> Iterator[Path]:
    """Yield a folder for files that replace those of `dataset`, or are added to them. They do when
    the block is left; leaving it with an exception changes nothing. The dataset must be locked.
    """
    prepared = dataset / _PREPARED
    shutil.rmtree(prepared, ignore_errors=True)
    prepared.mkdir()
    try:
        yield prepared
        sync_tree(prepared)
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise
    os.replace(prepared, dataset / NEXT)
    sync_folder(dataset)
    finish_version(dataset)


def finish_version(dataset: Path) -> None:
    """Finish an interrupted change, if there is one."""
    shutil.rmtree(dataset / _PREPARED, ignore_errors=True)
    following = dataset / NEXT
    if following.is_dir():
        paths = [path.relative_to(following) for path in following.rglob("*") if path.is_file()]
        for path in sorted(paths, key=lambda path: (path.name == MANIFEST, path)):
            (dataset / path).parent.mkdir(exist_ok=True)
            os.replace(following / path, dataset / path)
            sync_folder((dataset / path).parent)
    _remove_unnamed_shards(dataset)
    shutil.rmtree(following, ignore_errors=True)


def first_free_number(split: str, shards: Sequence[Shard], history: Iterable[Any]) -> int:
    """Return a number for the next shard of a split that has these; no shard has had it.

    Args:
        history: of the dataset. Where shards were taken out, it has the free number of that time.
    """
    numbers = [_SHARD_NAME.fullmatch(Path(shard.path).name) for shard in shards]
    free = [int(found[1]) + 1 for found in numbers if found]
    free += [entry[FREE_NUMBERS][split] for entry in history if FREE_NUMBERS in entry]
    return max(free, default=0)


def _remove_unnamed_shards(dataset: Path) -> None:
    _, manifest = read_manifest(dataset)
    for name, split in manifest.splits.items():
        named = {dataset / shard.path for shard in split.shards}
        named |= {index_path(path) for path in named}
        for path in [*(dataset / name).glob("shard-*"), *(dataset / name).glob(".*.tmp")]:
            if path not in named:
                path.unlink()
        if (dataset / name).is_dir():
            sync_folder(dataset / name)
