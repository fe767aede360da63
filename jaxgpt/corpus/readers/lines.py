"""Lines and long texts from a stream of chunks, in memory bounded by the longest allowed.

Lines end at b"\\n" and nowhere else: `str.splitlines` would also cut a JSON record at U+2028.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Byte order marks of files that were concatenated; zeros, with which tapes pad and crashed systems
# fill. Possessive, as `re` otherwise remembers every repetition: a gigabyte for 8 MiB of zeros.
_SEAM = re.compile(rb"(?:\0++|\xef\xbb\xbf)++")
_MAX_SEAM_BYTES = 3


class Line(NamedTuple):
    """`number` counts from 1; `data` excludes the newline and is None for a line too long."""

    number: int
    data: bytes | None
    has_newline: bool = True


def bounded_lines(chunks: Iterable[bytes], max_bytes: int, first: int = 1) -> Iterator[Line]:
    """Yield every line, blank ones too, numbered from `first`.

    Byte order marks and zeros before the text of a line are removed.
    """
    number, pending, is_too_long = first, b"", False
    for chunk in chunks:
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            data = pending + piece
            yield Line(number, None if is_too_long else _checked(data, max_bytes))
            number, pending, is_too_long = number + 1, b"", False
        if is_too_long:
            continue
        pending += rest
        if len(pending) > max_bytes + _MAX_SEAM_BYTES:
            pending = _without_seam(pending)
            if len(pending) > max_bytes + _MAX_SEAM_BYTES:
                pending, is_too_long = b"", True
    if pending or is_too_long:
        data = None if is_too_long else _checked(pending, max_bytes)
        yield Line(number, data, has_newline=False)


def _checked(data: bytes, max_bytes: int) -> bytes | None:
    data = _without_seam(data)
    return data if len(data) <= max_bytes else None


def _without_seam(data: bytes) -> bytes:
    found = _SEAM.match(data)
    return data[found.end() :] if found else data


class TextPiece(NamedTuple):
    """Part of a text that begins on line `number`; `is_last` unless more pieces follow."""

    number: int
    data: bytes
    is_last: bool


def bounded_pieces(chunks: Iterable[bytes], max_bytes: int) -> Iterator[TextPiece]:
    """Cut a text into pieces of at most `max_bytes`; nothing is lost and no character is cut.

    The cut is after the last blank line, else line end, else space, of the second half.
    """
    number, pending = 1, bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) > max_bytes:
            end = _cut(pending, max_bytes)
            data = bytes(pending[:end])
            del pending[:end]
            yield TextPiece(number, data, is_last=False)
            number += data.count(b"\n")
    yield TextPiece(number, bytes(pending), is_last=True)


def _cut(data: bytearray, limit: int) -> int:
    """Return where to cut `data`, which is longer than `limit`: at `limit` or before."""
    for mark in (b"\n\n", b"\n", b" "):
        position = data.rfind(mark, limit // 2, limit)
        if position >= 0:
            return position + len(mark)
    # Not inside a UTF-8 sequence: its continuation bytes, three at most, are 10xxxxxx.
    for end in range(limit, max(limit - 4, 0), -1):
        if data[end] & 0xC0 != 0x80:
            return end
    return limit
