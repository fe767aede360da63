"""The dataset folder on disk: its manifest, and token shards read by window.

    manifest.json                 what is here; written last, so its presence means complete
    tokenizer/tokenizer.model
    train/shard-00000.bin         tokens, little-endian uint16 (vocabulary <= 65,536) or uint32
    train/shard-00000.idx.npy     int64, offsets in the shard at which a document begins
    val/...

The tokens of a split are counted from 0 through all its shards. A document is `BOS tokens... EOS`;
one that is longer than a shard goes on in the next, where its continuation is no beginning.
How shards are written is in `shard_writer.py`; what a training row is, in `data/`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.manifest import TOKENIZER_FOLDER, Manifest, Shard, read_manifest
from jaxgpt.errors import MismatchError
from jaxgpt.storage.durable import hash_file
from jaxgpt.storage.mapped_files import map_array, map_npy
from jaxgpt.tokenizer.tokenizer import Tokenizer, find_file

# Mappings of each kind that a split has at once; Linux allows a process 65,530.
MAX_MAPPED = 8192


def index_path(shard_path: Path) -> Path:
    """Return the path of the index: `shard-00000.bin` -> `shard-00000.idx.npy`."""
    return shard_path.with_suffix(".idx.npy")


class TokenSplit:
    """One split of a dataset, as one long sequence of tokens in memory-mapped files.

    Attributes:
        num_tokens: tokens in all shards, BOS and EOS included.
        num_documents: documents.
        num_bytes: UTF-8 bytes of their text.
        shards: what the sequence is made of, in order.
    """

    def __init__(self, directory: Path, shards: Sequence[Shard], dtype: np.dtype) -> None:
        self.shards = tuple(shards)
        self.num_tokens = sum(shard.num_tokens for shard in shards)
        self.num_documents = sum(shard.num_documents for shard in shards)
        self.num_bytes = sum(shard.num_bytes for shard in shards)
        self._directory = directory
        self._dtype = dtype
        # Shard n holds the tokens _ends[n - 1] .. _ends[n] - 1.
        self._ends = np.cumsum([shard.num_tokens for shard in shards], dtype=np.int64)
        self._tokens: dict[int, np.ndarray] = {}
        self._starts: dict[int, np.ndarray] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the dataset's content, independent of its path."""
        hashes = (shard.sha256 for shard in self.shards)
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start .. stop - 1, int32 [stop - start].

        Raises:
            IndexError: not 0 <= start <= stop <= num_tokens.
        """
        pieces = self._pieces(start, stop)
        tokens = np.empty(stop - start, np.int32)
        for number, first, begin, end in pieces:
            tokens[first + begin - start : first + end - start] = self._tokens_of(number)[begin:end]
        return tokens

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Return where documents begin in [start, stop), int64, ascending, counted as in `read`.

        Raises:
            IndexError: not 0 <= start <= stop <= num_tokens.
        """
        found = [np.empty(0, np.int64)]
        for number, first, begin, end in self._pieces(start, stop):
            starts = self._starts_of(number)
            low, high = np.searchsorted(starts, [begin, end])
            found.append(starts[low:high] + first)
        return np.concatenate(found)

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """List (shard, its first token, begin in it, end in it) for what [start, stop) touches."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start}..{stop} of a split that has {self.num_tokens}")
        pieces = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = int(self._ends[number])
            first = end - self.shards[number].num_tokens
            pieces.append((number, first, start - first, min(stop, end) - first))
            start = min(stop, end)
            number += 1
        return pieces

    def _tokens_of(self, number: int) -> np.ndarray:
        tokens = self._tokens.get(number)
        if tokens is None:
            path = self._directory / self.shards[number].path
            try:
                tokens = map_array(path, self._dtype)
            except FileNotFoundError:
                raise _gone(path) from None
            _remember(self._tokens, number, tokens)
        return tokens

    def _starts_of(self, number: int) -> np.ndarray:
        starts = self._starts.get(number)
        if starts is None:
            starts = self._map_starts(number)
            _remember(self._starts, number, starts)
        return starts

    def _map_starts(self, number: int) -> np.ndarray:
        path = index_path(self._directory / self.shards[number].path)
        try:
            starts = map_npy(path)
        except FileNotFoundError:
            raise _gone(path) from None
        except ValueError as error:
            raise MismatchError(f"{path} is damaged: {error}; build the dataset again") from None
        if starts.dtype != np.int64 or starts.shape != (self.shards[number].num_documents,):
            raise MismatchError(
                f"{path} holds {starts.dtype} {list(starts.shape)}; the manifest says int64 "
                f"[{self.shards[number].num_documents}]; build the dataset again"
            )
        return starts


def _gone(path: Path) -> MismatchError:
    return MismatchError(
        f"{path} is missing: if a takedown or a merge has changed the dataset since it was opened, "
        f"run the same command again; build the dataset again if it has lost the file"
    )


def _remember(mapped: dict[int, np.ndarray], number: int, array: np.ndarray) -> None:
    """Keep a mapping, and let the oldest go if there are as many as a process may well have."""
    if len(mapped) >= MAX_MAPPED:
        mapped.pop(next(iter(mapped)), None)
    mapped[number] = array


class TokenDataset:
    """A complete dataset folder.

    Attributes:
        directory: where it lies.
        manifest: `manifest.json`, as plain values.
        fingerprint: SHA-256 of what training sees of it; equal data has equal fingerprints.
        tokenizer_path: its file.
        splits: `train` and `val`, which may be empty.
    """

    def __init__(self, directory: Path, raw: dict[str, Any], manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = raw
        self.fingerprint = manifest.fingerprint
        self.tokenizer_path = find_file(directory / TOKENIZER_FOLDER)
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.splits = {
            name: TokenSplit(directory, split.shards, dtype)
            for name, split in manifest.splits.items()
        }
        self._itemsize = dtype.itemsize

    @classmethod
    def open(cls, directory: str | Path) -> "TokenDataset":
        """Open a dataset; the sizes of its files are checked, their content with `verify`.

        Raises:
            UsageError: there is no such folder.
            MismatchError: it holds no complete dataset, one of another format version, one that
                was changed by hand, or shards are missing or truncated.
        """
        directory = Path(directory)
        dataset = cls(directory, *read_manifest(directory))
        dataset._check_sizes()
        return dataset

    def load_tokenizer(self) -> Tokenizer:
        """Open the dataset's tokenizer.

        Raises:
            MismatchError: it is not the one that the shards were written with.
        """
        tokenizer = Tokenizer.load(self.tokenizer_path)
        expected = self.manifest["tokenizer"]["sha256"]
        if tokenizer.fingerprint != expected:
            raise MismatchError(
                f"{self.tokenizer_path} is tokenizer {tokenizer.fingerprint[:12]}; the shards were "
                f"written with {expected[:12]}; build the dataset again"
            )
        return tokenizer

    def verify(self) -> int:
        """Read and hash everything, and return the number of bytes hashed.

        Raises:
            MismatchError: the first file whose content is not what was written.
        """
        self.load_tokenizer()
        num_bytes = 0
        for split in self.splits.values():
            for shard in split.shards:
                path = self.directory / shard.path
                files = {path: shard.sha256, index_path(path): shard.index_sha256}
                for file, expected in files.items():
                    if (found := hash_file(file)) != expected:
                        raise MismatchError(
                            f"{file} is damaged: its SHA-256 is {found[:12]}, the manifest has "
                            f"{expected[:12]}; build the dataset again"
                        )
                    num_bytes += file.stat().st_size
        return num_bytes

    def _check_sizes(self) -> None:
        _require(self.tokenizer_path)
        for shard in (shard for split in self.splits.values() for shard in split.shards):
            path = self.directory / shard.path
            _require(path)
            _require(index_path(path))
            expected = shard.num_tokens * self._itemsize
            if (found := path.stat().st_size) != expected:
                raise MismatchError(
                    f"{path} has {found} bytes and {expected} in the manifest: it is truncated or "
                    "belongs to another dataset; build the dataset again"
                )


def _require(file: Path) -> None:
    if not file.is_file():
        raise MismatchError(f"{file} is missing; build the dataset again")
