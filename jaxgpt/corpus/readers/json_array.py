"""The elements of a JSON array, one at a time, in memory bounded by the largest element allowed.

Only finds where elements begin and end; whether each one is JSON is for the caller.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxgpt.corpus.readers.json_text import JsonText

_OUTSIDE_STRING = re.compile(rb'["\[\]{},]')
_INSIDE_STRING = re.compile(rb'["\\]')


class Element(NamedTuple):
    """`line` is where it begins, from 1; `data` is None where it exceeds the limit."""

    line: int
    data: bytes | None
    is_complete: bool = True


def array_elements(text: JsonText, max_bytes: int) -> Iterator[Element]:
    """Yield the elements of the array with which `text` begins; later text is left in `text`. If
    the data ends before the array does, the rest comes last, not `is_complete` (and may be blank).
    """
    splitter = _Splitter(max_bytes, text.line)
    for chunk in text.chunks():
        yield from splitter.feed(chunk)
        if splitter.is_closed:
            text.put_back(chunk[splitter.position :], splitter.line)
            return
    yield Element(splitter.start_line, splitter.pending(), is_complete=False)


class _Splitter:
    """Follows strings and nesting; keeps the bytes of the element that is not complete yet.

    Attributes:
        is_closed: whether the array has ended; if so, at `position` in the last chunk.
        line: last line that was read.
        start_line: where the current element begins.
    """

    def __init__(self, max_bytes: int, line: int) -> None:
        self.is_closed = False
        self.position = 0
        self.line = line
        self.start_line = line
        self._max_bytes = max_bytes
        self._element = bytearray()
        self._num_bytes = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def pending(self) -> bytes | None:
        """Return the bytes so far of the current element; None if it has grown too long."""
        return bytes(self._element) if self._num_bytes <= self._max_bytes else None

    def feed(self, chunk: bytes) -> Iterator[Element]:
        kept, position = 0, 0
        while position < len(chunk):
            if self._escaped:
                self._escaped = False
                position += 1
                continue
            pattern = _INSIDE_STRING if self._in_string else _OUTSIDE_STRING
            match = pattern.search(chunk, position)
            if match is None:
                break
            position = match.end()
            mark = match.group()
            if mark == b"\\":
                self._escaped = True
            elif mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"[{":
                self._depth += 1
                if self._depth == 1:
                    # The array itself: its elements begin after the bracket.
                    self._take(chunk[kept:position])
                    self._clear()
                    kept = position
            elif mark in b"]}":
                self._depth -= 1
            if (mark == b"," and self._depth == 1) or self._depth == 0:
                self._take(chunk[kept : position - 1])
                self.is_closed, self.position = self._depth == 0, position
                yield from self._complete()
                if self.is_closed:
                    return
                kept = position
        self._take(chunk[kept:])

    def _take(self, data: bytes) -> None:
        if self._num_bytes == 0:
            body = data.lstrip()
            self.line += data[: len(data) - len(body)].count(b"\n")
            self.start_line, data = self.line, body
        self.line += data.count(b"\n")
        self._num_bytes += len(data)
        if self._num_bytes <= self._max_bytes:
            self._element += data
        else:
            self._element.clear()

    def _complete(self) -> Iterator[Element]:
        if self._num_bytes:
            yield Element(self.start_line, self.pending())
        self._clear()

    def _clear(self) -> None:
        self._element.clear()
        self._num_bytes = 0
