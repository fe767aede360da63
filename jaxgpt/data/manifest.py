"""`manifest.json`: what a dataset folder holds, written last, checked before anything is read.

The folder's layout is in `shards.py`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from jaxgpt.errors import MismatchError, UsageError
from jaxgpt.names.nearby_paths import describe_nearby_datasets
from jaxgpt.storage.durable import write_json
from jaxgpt.tokenizer.tokenizer import Tokenizer

VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
_HOW_TO_BUILD = "build one with `python tools/build_dataset.py --input TEXT --output DIR`"

Count = Annotated[int, pydantic.Field(ge=0)]


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the storage type of a vocabulary's ids: `<u2` up to 65,536 ids, then `<u4`."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Entry of one shard in the manifest.

    Attributes:
        path: of the `.bin` file, relative to the dataset folder, with `/`.
        num_tokens: tokens in it, BOS and EOS included.
        num_documents: documents that begin in it.
        num_bytes: UTF-8 bytes of the text of these documents.
        sha256: of the `.bin` file.
        index_sha256: of the `.idx.npy` file.
    """

    path: str
    num_tokens: Count
    num_documents: Count
    num_bytes: Count
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class _SplitEntry:
    num_tokens: Count
    num_documents: Count
    num_bytes: Count
    shards: list[Shard]


@dataclass(frozen=True, kw_only=True)
class _TokenizerEntry:
    sha256: str
    type: str
    vocab_size: int
    special_ids: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The part of a manifest that reading needs; it has more, see `write_manifest`."""

    version: int
    fingerprint: str
    tokenizer: _TokenizerEntry
    dtype: Literal["uint16", "uint32"]
    splits: dict[str, _SplitEntry]


def write_manifest(
    directory: str | Path,
    tokenizer: Tokenizer,
    splits: dict[str, Sequence[Shard]],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Declare the dataset in `directory` complete, and return its manifest.

    All other files must be on disk before. `about` is recorded in addition to the names that this
    function writes: sources, settings, counts, as plain JSON values.

    Raises:
        ValueError: `about` has a name that the manifest itself uses.
    """
    entries = {
        name: _SplitEntry(
            num_tokens=sum(shard.num_tokens for shard in shards),
            num_documents=sum(shard.num_documents for shard in shards),
            num_bytes=sum(shard.num_bytes for shard in shards),
            shards=list(shards),
        )
        for name, shards in splits.items()
    }
    dtype = token_dtype(tokenizer.vocab_size).name
    fingerprint = _fingerprint(tokenizer.fingerprint, dtype, entries)
    manifest = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "tokenizer": tokenizer.describe(),
        "dtype": dtype,
        "splits": {name: asdict(entry) for name, entry in entries.items()},
    }
    if taken := sorted(manifest.keys() & about.keys()):
        raise ValueError(f"about has {', '.join(taken)}, which the manifest itself writes")
    manifest |= about
    write_json(Path(directory) / MANIFEST, manifest)
    return manifest


def _fingerprint(tokenizer: str, dtype: str, splits: dict[str, _SplitEntry]) -> str:
    """Return the SHA-256 of all that training reads of a dataset: tokenizer, type and shards.

    Where the files lie, and when, how and from what they were built, does not count.
    """
    shards = {
        name: [(shard.num_tokens, shard.sha256, shard.index_sha256) for shard in split.shards]
        for name, split in splits.items()
    }
    content = {"version": VERSION, "tokenizer": tokenizer, "dtype": dtype, "shards": shards}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> tuple[dict[str, Any], Manifest]:
    """Return a dataset's manifest as checked JSON values. Raises as `open` does."""
    if not directory.is_dir():
        hint = describe_nearby_datasets(directory)
        hint += "" if hint.endswith("?") else f"; {_HOW_TO_BUILD}"
        raise UsageError(f"no dataset at {directory}: there is no such folder{hint}")
    path = directory / MANIFEST
    if not path.is_file():
        raise MismatchError(
            f"{directory} is not a complete dataset: it has no {MANIFEST} (next to "
            f"{TOKENIZER_FOLDER}/, train/ and val/); {_HOW_TO_BUILD}; if one was interrupted, run "
            "its command again"
        )
    content = path.read_bytes()
    try:
        raw = json.loads(content)
        version = raw["version"]
    except (ValueError, TypeError, KeyError):
        raise MismatchError(f"{path} is not the manifest of a dataset; {_HOW_TO_BUILD}") from None
    if version != VERSION:
        raise MismatchError(
            f"{path} has format version {version!r}, and this jaxgpt reads version {VERSION}: "
            f"use the jaxgpt that wrote it, or build the dataset again"
        )
    try:
        manifest = pydantic.TypeAdapter(Manifest).validate_json(content, strict=True)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise MismatchError(
            f"{path} is damaged: {place}: {problem['msg']}; build it again"
        ) from None
    for split in manifest.splits.values():
        for shard in split.shards:
            parts = PurePosixPath(shard.path)
            if parts.is_absolute() or ".." in parts.parts:
                raise MismatchError(f"{path} names {shard.path}, outside the dataset's folder")
    found = _fingerprint(manifest.tokenizer.sha256, manifest.dtype, manifest.splits)
    if manifest.fingerprint != found:
        raise MismatchError(
            f"{path} was changed after it was written: it has fingerprint "
            f"{manifest.fingerprint[:12]}, its content {found[:12]}; build the dataset again"
        )
    return raw, manifest
