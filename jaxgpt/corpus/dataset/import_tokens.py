"""Token files -> the dataset folder that their text would give, without encoding again."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from jaxgpt.corpus.dataset.document_index import INDEX_SCHEMA, IndexWriter
from jaxgpt.corpus.dataset.token_files import (
    TokenFile,
    check_vocabulary,
    open_megatron,
    open_nanogpt,
)
from jaxgpt.corpus.documents.content_hash import HASH_BYTES, content_hash
from jaxgpt.corpus.documents.document import RemovedWriter
from jaxgpt.corpus.documents.splits import Assignment, HashAssignment, HashSplit, draw
from jaxgpt.corpus.stats.counts import SourceCounts
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from jaxgpt.data.manifest import TOKENIZER_FOLDER, Shard, write_manifest
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.storage.durable import hash_file
from jaxgpt.storage.new_folder import new_folder
from jaxgpt.tokenizer.tokenizer import Tokenizer

Format = Literal["nanogpt", "megatron"]
_INDEX_ROWS = 4096
_OPEN = {"nanogpt": open_nanogpt, "megatron": open_megatron}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Settings of an import, in addition to the files.

    Attributes:
        format: of the files.
        eos_id: the id that ends documents; None for the tokenizer's own.
        val_fraction: share of the documents that is held out, chosen by their content.
        seed: of order and choice.
        source, license: of all documents.
    """

    format: Format
    eos_id: int | None
    val_fraction: float
    seed: int
    source: str
    license: str


def import_tokens(
    path: Path, tokenizer: Tokenizer, output: Path, settings: ImportSettings
) -> dict[str, Any]:
    """Write a dataset of the documents of a token file, and return its manifest.

    Order and division are those that `build_dataset` gives the same texts. Documents without text
    are dropped; nothing else is judged, and copies stay.

    Args:
        path: the `.bin` file.
        tokenizer: the one that it was made with.
        output: dataset folder; must not exist, or be empty. It appears when it is complete.
        settings: the rest.

    Raises:
        UsageError: a file is not there, `output` cannot be used, or `eos_id` is no id.
        ConfigError: `val_fraction` is not between 0 and 1.
        MismatchError: the file is damaged, or was made with another tokenizer.
        BadInputError: there are not enough documents in it.
    """
    eos_id = tokenizer.eos_id if settings.eos_id is None else settings.eos_id
    if not 0 <= eos_id < tokenizer.vocab_size:
        raise UsageError(
            f"--eos-id {eos_id} is not in the vocabulary; its ids are 0..{tokenizer.vocab_size - 1}"
        )
    split = HashSplit(val_fraction=settings.val_fraction)
    file = _OPEN[settings.format](path, tokenizer, eos_id)
    check_vocabulary(file, tokenizer)
    with new_folder(output) as folder:
        hashes, is_empty_D = _hash_documents(file, tokenizer)
        order = _final_order(hashes, is_empty_D, settings.seed)
        if not order:
            raise BadInputError(f"{path} has no document with text in it")
        assignment = split.plan((hashes[number].tobytes() for number in order), settings.seed)
        shards = _write_splits(folder, file, tokenizer, hashes, order, assignment, settings)
        empty = np.flatnonzero(is_empty_D).tolist()
        with RemovedWriter(folder / REMOVED_NAME) as removed:
            for number in empty:
                location = _location(file, number)
                removed.write(id=location, stage="read", reason="empty", location=location)
        tokenizer.save(folder / TOKENIZER_FOLDER)
        about = _about(file, settings, shards, len(empty))
        about["split_note"] = assignment.note
        return write_manifest(folder, tokenizer, shards, about)


def _hash_documents(file: TokenFile, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return (content hashes uint8 [D, 16], empty texts bool [D]) of all documents."""
    num_documents = len(file.starts_D)
    hashes = np.empty((num_documents, HASH_BYTES), np.uint8)
    is_empty_D = np.empty(num_documents, bool)
    for number in range(num_documents):
        text = tokenizer.decode(file.read(number).tolist())
        hashes[number] = np.frombuffer(content_hash(text), np.uint8)
        is_empty_D[number] = not text or text.isspace()
    return hashes, is_empty_D


def _final_order(hashes: np.ndarray, is_empty_D: np.ndarray, seed: int) -> list[int]:
    """Return the numbers of the documents that stay, as `build_dataset` would order them."""
    numbers = np.flatnonzero(~is_empty_D)
    draws = [draw("order", seed, hashes[number].tobytes()) for number in numbers]
    high, low = hashes[numbers].view(">u8").reshape(-1, 2).T
    return numbers[np.lexsort((low, high, np.array(draws, np.uint64)))].tolist()


def _write_splits(
    folder: Path,
    file: TokenFile,
    tokenizer: Tokenizer,
    hashes: np.ndarray,
    order: Sequence[int],
    assignment: Assignment,
    settings: ImportSettings,
) -> dict[str, Sequence[Shard]]:
    """Write shards and index of both splits; `order` numbers the documents."""
    with (
        _SplitWriter(folder, "train", tokenizer) as train,
        _SplitWriter(folder, "val", tokenizer) as val,
    ):
        for number in order:
            digest, ids = hashes[number].tobytes(), file.read(number)
            cut = _divide(assignment, digest, ids, settings.val_fraction)
            name = {
                "hash": digest,
                "id": _location(file, number),
                "location": _location(file, number),
                "source": settings.source,
                "license": settings.license,
                "url": "",
            }
            train.add(ids[:cut], name)
            val.add(ids[cut:], name)
    if not (train.shards and val.shards):
        raise BadInputError(f"{file.path} has too little text to hold any out for validation")
    return {"train": train.shards, "val": val.shards}


def _divide(assignment: Assignment, digest: bytes, ids: np.ndarray, val_fraction: float) -> int:
    """Return how many ids of a document, from its beginning, are for training."""
    if isinstance(assignment, HashAssignment):
        training, _ = assignment.divide(digest, "text")
        return len(ids) if training else 0
    # A single document; its end is held out, and neither side is empty if there are two tokens.
    return max(min(int(len(ids) * (1 - val_fraction)), len(ids) - 1), 1)


class _SplitWriter:
    """Writes the shards of a split, and their index.

    Attributes:
        shards: all of them, once the block is left.
    """

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer) -> None:
        self._bytes_per_token = tokenizer.bytes_per_token
        self._stack = contextlib.ExitStack()
        self._index = IndexWriter(folder / split)
        self._writer = ShardWriter(folder, split, tokenizer)
        self._rows: list[dict[str, Any]] = []
        self.shards = self._writer.shards

    def __enter__(self) -> "_SplitWriter":
        self._stack.enter_context(self._index)
        self._stack.enter_context(self._writer)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is None:
            self._flush()
        self._stack.__exit__(kind, *rest)

    def add(self, ids: np.ndarray, name: Mapping[str, Any]) -> None:
        """Append a document; nothing if it has no ids.

        Args:
            ids: without BOS and EOS.
            name: the columns of the index but for the sizes.
        """
        if not len(ids):
            return
        num_bytes = int(self._bytes_per_token[ids].sum())
        self._writer.add(ids, num_bytes)
        self._rows.append({**name, "num_tokens": len(ids) + 2, "num_bytes": num_bytes})
        if len(self._rows) >= _INDEX_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._index.add(pa.Table.from_pylist(self._rows, INDEX_SCHEMA))
        self._rows = []


def _about(
    file: TokenFile,
    settings: ImportSettings,
    shards: Mapping[str, Sequence[Shard]],
    num_empty: int,
) -> dict[str, Any]:
    """Return the descriptive part of the manifest, which reading does not need."""
    written = [shard for split in shards.values() for shard in split]
    num_bytes = sum(shard.num_bytes for shard in written)
    dropped = {"empty": num_empty} if num_empty else {}
    tally = SourceCounts(
        read=len(file.starts_D),
        read_bytes=num_bytes,
        dropped=Counter(dropped),
        dropped_at=Counter({"read": num_empty} if num_empty else {}),
        kept=len(file.starts_D) - num_empty,
        num_bytes=num_bytes,
        num_tokens=sum(shard.num_tokens for shard in written),
        licenses=[settings.license] if settings.license else [],
    )
    return {
        "counts": {"read": tally.read, "kept": tally.kept, "dropped": dropped},
        "sources": [{"name": settings.source, **tally.to_json()}],
        "imported": {
            **dataclasses.asdict(settings),
            "file": str(file.path),
            "itemsize_bytes": file.tokens.itemsize,
            "num_padding_tokens": file.num_padding,
            "num_bytes": file.path.stat().st_size,
            "sha256": hash_file(file.path),
        },
    }


def _location(file: TokenFile, number: int) -> str:
    """Return the location of a document; documents are counted from 1, as lines are."""
    return f"{file.path}:{number + 1}"
