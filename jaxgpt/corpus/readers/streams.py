"""Bytes of one input file, decompressed in bounded memory, and the problem of a damaged file.

A damaged file is no exception here: everything before the damage is good and is yielded; the
damage itself is left in `ByteStream.problem`. Knows nothing of lines, records or documents.
"""

import bz2
import codecs
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

import zstandard

from jaxgpt.corpus.execution.machine_errors import is_fault_of_machine

CHUNK_BYTES = 1 << 18
# What `zstd --long=27` writes needs a window of this size to read.
WINDOW_BYTES = 1 << 27
# Memory of the xz decoder in addition to its dictionary.
_XZ_BYTES = 1 << 20
# Small inputs that repeat themselves compress well without being an attack.
EXPANSION_FREE_BYTES = 1 << 26
# UTF-32 first: its mark in little-endian form begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAX_MARK_BYTES = 4

# Messages of zstd and xz about a window above the limit.
_WINDOW_ERROR = re.compile("requires too much memory|[Mm]emory usage limit")

Problem = Literal["truncated", "expands_too_far", "unreadable"]


@dataclass(frozen=True)
class FileProblem:
    """Reason why a file could not be read to its end. `kind` is counted, `detail` is for people."""

    kind: Problem
    detail: str


class Decompressor(Protocol):
    """One compressed member, as `bz2.BZ2Decompressor` and `lzma.LZMADecompressor` define it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class ByteStream:
    """An iterable of decompressed chunks.

    Attributes:
        problem: None, or after the last chunk the reason why the stream ended early.
        num_read_bytes: stored (compressed) bytes read so far.
    """

    def __init__(
        self,
        raw: BinaryIO,
        compression: str,
        max_file_bytes: int,
        max_expansion: float,
        max_window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.problem: FileProblem | None = None
        self.num_read_bytes = 0
        self._raw = raw
        self._decoder = DECODERS[compression]
        self._max_file_bytes = max_file_bytes
        self._max_window_bytes = max_window_bytes
        self._max_expansion = max_expansion

    def __iter__(self) -> Iterator[bytes]:
        return _as_utf8(self._limit(self._decompress() if self._decoder else self._plain()))

    def _read(self) -> bytes:
        try:
            data = self._raw.read(CHUNK_BYTES)
        except OSError as error:
            if is_fault_of_machine(error):
                raise
            self.problem = FileProblem("unreadable", str(error))
            return b""
        self.num_read_bytes += len(data)
        return data

    def _plain(self) -> Iterator[bytes]:
        while data := self._read():
            yield data

    def _decompress(self) -> Iterator[bytes]:
        """Yield the bytes of all members (gzip, xz, bz2) or frames (zstd) of the file."""
        assert self._decoder is not None
        decoder, num_members, produced = self._decoder(self._max_window_bytes), 0, False
        data = self._read()
        if not data and self.problem is None:
            self.problem = FileProblem("truncated", "the file is empty")
        while data or not decoder.needs_input:
            try:
                chunk = decoder.decompress(data, CHUNK_BYTES)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
                if is_fault_of_machine(error):
                    raise
                self.problem = self._problem_of(error, produced or num_members > 0)
                return
            if chunk:
                produced = True
                yield chunk
            data = b""
            if decoder.eof:
                num_members += 1
                # Tapes and xz pad with zeros between and after members.
                data = decoder.unused_data.lstrip(b"\0")
                while not data and (more := self._read()):
                    data = more.lstrip(b"\0")
                if not data:
                    return
                decoder = self._decoder(self._max_window_bytes)
            elif decoder.needs_input:
                data = self._read()
        if self.problem is None:
            # Decoders return what they have and say nothing; only `eof` tells a short file.
            self.problem = FileProblem("truncated", "the compressed data ends early")

    def _problem_of(self, error: Exception, has_good_part: bool) -> FileProblem:
        detail = str(error)
        if _WINDOW_ERROR.search(detail):
            detail += (
                f"; its window is larger than sources.max_window_bytes = {self._max_window_bytes}, "
                f"and `zstd --long=31` needs {1 << 31}"
            )
        if has_good_part:
            return FileProblem("truncated", f"damaged after the good part: {detail}")
        return FileProblem("unreadable", detail)

    def _limit(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        total = 0
        for chunk in chunks:
            total += len(chunk)
            if self._decoder and total > self._max_file_bytes:
                self.problem = FileProblem(
                    "expands_too_far", f"more than {self._max_file_bytes} bytes when decompressed"
                )
                return
            ratio = total / max(self.num_read_bytes, 1)
            if self._decoder and total > EXPANSION_FREE_BYTES and ratio > self._max_expansion:
                self.problem = FileProblem(
                    "expands_too_far",
                    f"decompresses to over {self._max_expansion:g} times its size",
                )
                return
            yield chunk


class _GzipMember:
    """`zlib.decompressobj` with the interface of the other two."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not (self._is_full or self._inner.unconsumed_tail or self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        chunk = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._is_full = len(chunk) == max_length
        return chunk


class _ZstdFrame:
    """A zstd frame, fed in slices so small that no slice can expand beyond some 32 MiB.

    The library's own reader bounds its output, but reports a truncated file as a short one.
    """

    _SLICE_BYTES = 1024

    def __init__(self, max_window_bytes: int) -> None:
        factory = zstandard.ZstdDecompressor(max_window_size=max_window_bytes)
        self._inner = factory.decompressobj()
        self._pending = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._pending and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + bytes(self._pending)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._pending = memoryview(bytes(self._pending) + data)
        pieces, size = [], 0
        while self._pending and size < max_length and not self._inner.eof:
            piece = self._inner.decompress(self._pending[: self._SLICE_BYTES])
            self._pending = self._pending[self._SLICE_BYTES :]
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)


def _xz_file(max_window_bytes: int) -> Decompressor:
    return lzma.LZMADecompressor(memlimit=max_window_bytes + _XZ_BYTES)


DECODERS: dict[str, Callable[[int], Decompressor] | None] = {
    "": None,
    ".gz": lambda _: _GzipMember(),
    ".zst": _ZstdFrame,
    ".bz2": lambda _: bz2.BZ2Decompressor(),
    ".xz": _xz_file,
}
"""Decompressor of one member, by ending; it is given the size of the largest window."""


def _as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass chunks on; a file that begins with the mark of another Unicode form becomes UTF-8."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= _MAX_MARK_BYTES:
            break
    encoding = next((name for mark, name in _MARKS if first.startswith(mark)), None)
    if encoding is None:
        yield first
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    yield decoder.decode(first).encode()
    for chunk in chunks:
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()
