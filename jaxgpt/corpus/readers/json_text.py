"""Text of a JSON file: its unread rest, and JSON values within a piece of it.

A file may hold several values: arrays, objects over several lines and objects on a line each, one
after the other, as concatenated files and the members of an archive do.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jaxgpt.corpus.readers.lines import Line, bounded_lines

# Between values: whitespace, byte order marks of files that were concatenated, and zeros, with
# which tapes pad and crashed systems fill.
_BLANK = rb"(?:[ \t\r\n\x0b\x0c\0]|\xef\xbb\xbf)*+"
_LEADING_BLANK = re.compile(_BLANK)
_LEADING_BLANK_TEXT = re.compile("[ \t\r\n\x0b\x0c\0\ufeff]*+")
_ARRAY_LINE = re.compile(rb"\n(?:[ \t\r\x0b\x0c\0]|\xef\xbb\xbf)*+\[")
# A chunk may end within a byte order mark.
_BLANK_LINE_AT_END = re.compile(rb"\n" + _BLANK + rb"(\xef\xbb?)?\Z")
_TOKEN = re.compile(rb'"(?:[^"\\]+|\\.)*+"|["\[\]{}]', re.DOTALL)
_DECODER = json.JSONDecoder()


class JsonText:
    """The unread rest of a file.

    Attributes:
        line: the number of the line where it begins, from 1.
        is_inside_value: set while the lines read so far end within a value.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.line = 1
        self.is_inside_value = False
        self._chunks = iter(chunks)
        self._returned = b""

    def chunks(self) -> Iterator[bytes]:
        """Yield the rest; a caller that stops early puts back the bytes that it did not need."""
        while data := self._next():
            yield data

    def put_back(self, data: bytes, line: int) -> None:
        """Put back `data`, which begins on `line`, to be read next."""
        self._returned, self.line = data, line

    def peek(self) -> bytes:
        """Skip white space and return the byte after it; b"" at the end of the file."""
        data = b""
        while chunk := self._next():
            data += chunk
            end = _LEADING_BLANK.match(data).end()  # type: ignore[union-attr]
            self.line += data.count(b"\n", 0, end)
            data = data[end:]
            if data and data not in (b"\xef", b"\xef\xbb"):
                break
        self._returned = data
        return data[:1]

    def skip(self, num_bytes: int) -> None:
        """Leave out bytes that `peek` has found."""
        self._returned = self._returned[num_bytes:]

    def lines(self, max_bytes: int) -> Iterator[Line]:
        """Yield lines up to one that begins an array, unless that lies inside a value."""
        yield from bounded_lines(self._up_to_array(), max_bytes, self.line)

    def _up_to_array(self) -> Iterator[bytes]:
        held, is_line_start = b"", True
        while chunk := self._next():
            start, data = 0, (b"\n" if is_line_start else b"") + held + chunk
            num_added = 1 if is_line_start else 0
            for match in _ARRAY_LINE.finditer(data):
                end = match.end() - 1
                yield self._passed(data[start + num_added : end])
                start, num_added = end, 0
                if not self.is_inside_value:
                    self._returned = data[start:]
                    return
            end_match = _BLANK_LINE_AT_END.match(data, max(data.rfind(b"\n"), 0))
            is_line_start = end_match is not None
            held = (end_match[1] or b"") if end_match else b""
            yield self._passed(data[start + num_added : len(data) - len(held)])
        yield held

    def _passed(self, data: bytes) -> bytes:
        self.line += data.count(b"\n")
        return data

    def _next(self) -> bytes:
        data, self._returned = self._returned, b""
        return data or next((chunk for chunk in self._chunks if chunk), b"")


class Values(NamedTuple):
    """JSON values of a piece of text; the rest where no value begins, and the reason."""

    values: list[Any]
    rest: bytes = b""
    error: Exception | None = None


def parse_values(data: bytes) -> Values:
    """Parse the value that `data` is, or the objects and arrays that stand in it in a row."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        return Values([json.loads(text)])
    except (ValueError, RecursionError) as error:
        whole_error = error
    values: list[Any] = []
    position = _skip_blank(text, 0)
    while position < len(text):
        try:
            value, end = _DECODER.raw_decode(text, position)
            if not isinstance(value, dict | list):
                raise whole_error
        except (ValueError, RecursionError) as error:
            rest = text[position:].encode("utf-8", "surrogateescape")
            return Values(values, rest, error if values else whole_error)
        values.append(value)
        position = _skip_blank(text, end)
    return Values(values)


def is_blank(data: bytes) -> bool:
    """Return whether `data` holds nothing but what may stand between values."""
    return _LEADING_BLANK.fullmatch(data) is not None


def follow_value(data: bytes, depth: int) -> tuple[int, int | None] | None:
    """Follow the brackets of a value through a line of it.

    Returns:
        The depth of nesting after the line, and where the value ends, None unless it does; None
        if the line ends within a string, which JSON does not allow.
    """
    for match in _TOKEN.finditer(data):
        token = match.group()
        if token == b'"':
            return None
        if token in (b"[", b"{"):
            depth += 1
        elif token in (b"]", b"}"):
            depth -= 1
            if depth <= 0:
                return 0, match.end()
    return depth, None


def _skip_blank(text: str, position: int) -> int:
    return _LEADING_BLANK_TEXT.match(text, position).end()  # type: ignore[union-attr]
