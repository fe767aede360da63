"""Documents as token ids -> shards of one split. The format is described in `shards.py`."""

import contextlib
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxgpt.data.manifest import Shard, token_dtype
from jaxgpt.data.shards import index_path
from jaxgpt.storage.durable import sync_folder, write_atomically
from jaxgpt.tokenizer.tokenizer import Tokenizer

DEFAULT_SHARD_TOKENS = 2**26


class ShardWriter:
    """Writes documents one after the other; a shard appears under its name when it is whole.

        with ShardWriter(directory, "train", tokenizer) as writer:
            writer.add(tokenizer.encode(text), num_bytes=len(text.encode()))
        writer.shards  # for the manifest

    A document stays in one shard unless it is longer than a shard. Leaving the block by an
    exception leaves whole shards and no others.

    Attributes:
        shards: those finished so far; all of them once the block is left.
    """

    def __init__(
        self,
        directory: str | Path,
        split: str,
        tokenizer: Tokenizer,
        max_shard_tokens: int = DEFAULT_SHARD_TOKENS,
        first_shard: int = 0,
    ) -> None:
        """Prepare to write below `directory/split`.

        Args:
            directory: the dataset folder.
            split: name of the split and of its folder.
            tokenizer: the one that made the ids; gives BOS, EOS and the size of an id on disk.
            max_shard_tokens: a shard is closed before it gets longer.
            first_shard: number of the first shard, to go on after shards written earlier.
        """
        if max_shard_tokens < 1:
            raise ValueError(f"max_shard_tokens = {max_shard_tokens}: must be at least 1")
        self.shards: list[Shard] = []
        self._directory = Path(directory)
        self._split = split
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._vocab_size = tokenizer.vocab_size
        self._bos_id, self._eos_id = tokenizer.bos_id, tokenizer.eos_id
        self._max_shard_tokens = max_shard_tokens
        self._next_number = first_shard
        self._open: _OpenShard | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._open is None:
            return
        try:
            if error is None:
                self._finish_shard()
        finally:
            if self._open is not None:
                self._open.discard()

    def add(self, ids: Sequence[int] | np.ndarray, num_bytes: int) -> None:
        """Append one document, given without BOS and EOS.

        Args:
            ids: token ids of the text.
            num_bytes: length of the text in UTF-8.

        Raises:
            ValueError: an id outside of the vocabulary.
        """
        document = np.empty(len(ids) + 2, np.int64)
        document[0], document[1:-1], document[-1] = self._bos_id, ids, self._eos_id
        if document.min() < 0 or document.max() >= self._vocab_size:
            raise ValueError(f"token ids must lie in 0..{self._vocab_size - 1}")
        tokens = document.astype(self._dtype)
        if self._open and self._open.num_tokens + len(tokens) > self._max_shard_tokens:
            self._finish_shard()
        begins, rest = True, tokens
        while len(rest):
            if self._open is None:
                self._open = self._start_shard()
            room = self._max_shard_tokens - self._open.num_tokens
            self._open.append(rest[:room], begins, num_bytes if begins else 0)
            begins, rest = False, rest[room:]
            if len(rest):
                self._finish_shard()

    def _start_shard(self) -> "_OpenShard":
        path = self._directory / self._split / f"shard-{self._next_number:05d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._next_number += 1
        return _OpenShard(path)

    def _finish_shard(self) -> None:
        assert self._open is not None
        self.shards.append(self._open.finish(self._directory))
        self._open = None


class _OpenShard:
    """A shard that is being written, under a temporary name."""

    def __init__(self, path: Path) -> None:
        self.num_tokens = 0
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = self._temporary.open("wb")
        self._hash = hashlib.sha256()
        self._starts: list[int] = []
        self._num_bytes = 0

    def append(self, tokens: np.ndarray, begins: bool, num_bytes: int) -> None:
        if begins:
            self._starts.append(self.num_tokens)
        data = tokens.tobytes()
        self._file.write(data)
        self._hash.update(data)
        self.num_tokens += len(tokens)
        self._num_bytes += num_bytes

    def finish(self, directory: Path) -> Shard:
        """Make the shard durable, its index first: a `.bin` under its name has one."""
        index = io.BytesIO()
        np.save(index, np.array(self._starts, dtype="<i8"), allow_pickle=False)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        write_atomically(index_path(self._path), index.getvalue())
        os.replace(self._temporary, self._path)
        sync_folder(self._path.parent)
        return Shard(
            path=self._path.relative_to(directory).as_posix(),
            num_tokens=self.num_tokens,
            num_documents=len(self._starts),
            num_bytes=self._num_bytes,
            sha256=self._hash.hexdigest(),
            index_sha256=hashlib.sha256(index.getvalue()).hexdigest(),
        )

    def discard(self) -> None:
        # First, because closing writes what is buffered, which a full disk refuses again.
        self._temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()
