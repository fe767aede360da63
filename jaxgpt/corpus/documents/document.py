"""`Document` and `Rejected`: the two results of reading a record. Nothing here reads or judges.

Every record of the input becomes exactly one of the two, so that the account of a build closes:
records read = documents kept + records dropped, by reason.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import zstandard

SAMPLE_CHARACTERS = 400
_SURROGATES = re.compile("[\ud800-\udfff]")
# What cannot be written as UTF-8, and what would read like the escape of it.
_TO_ESCAPE = re.compile(r"[\ud800-\udfff]|\\(?=x[0-9a-f]{2}|ud[89a-f][0-9a-f]{2})")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document.

    Attributes:
        id: the record's own `id` where it has one, else `location`. Not necessarily unique.
        text: may hold lone surrogates until it is repaired: U+DC80..U+DCFF stand for bytes that
            were not UTF-8 (Python's `surrogateescape`).
        location: `path:line` in the input; unique.
        source: the record's own `source`, else where it was found.
        license: the record's own `license`, or "".
        url: the record's own `url`, or "".
    """

    id: str
    text: str
    location: str
    source: str
    license: str = ""
    url: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A record that is no document, and why.

    Attributes:
        id, location, source: as in `Document`.
        reason: a name under which it is counted, such as `malformed_json`.
        detail: exact description of the fault, for people.
        is_bad: whether it counts towards the share of bad records above which a build stops.
        sample: the beginning of its text, for the report.
    """

    id: str
    location: str
    source: str
    reason: str
    detail: str = ""
    is_bad: bool = False
    sample: str = ""


class RemovedWriter:
    """Writes `removed.jsonl.zst` files: one JSON object per dropped document."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._stream = zstandard.ZstdCompressor(level=3).stream_writer(self._file, closefd=False)

    def __enter__(self) -> "RemovedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._stream.close()
        finally:
            self._file.close()

    def write(self, *, id: str, stage: str, reason: str, **more: Any) -> None:
        """Append one dropped document; `more` has further keys, such as `kept_id`."""
        line = {"id": id, "stage": stage, "reason": reason, **more}
        self._stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def copy(self, path: Path) -> None:
        """Append all of another such file."""
        with open(path, "rb") as file:
            zstandard.ZstdDecompressor().copy_stream(file, self._stream)  # type: ignore[arg-type]


def shorten(text: str, length: int = SAMPLE_CHARACTERS) -> str:
    """Return the beginning of `text` as valid Unicode, marked if it was cut."""
    cut = text[:length] + ("..." if len(text) > length else "")
    return cut.encode("utf-8", "replace").decode()


def escape_name(name: str) -> str:
    """Return a name as valid Unicode; different names stay different.

    A byte that is not UTF-8 (read with `surrogateescape`) becomes \\xNN, any other lone surrogate
    \\uNNNN, and a backslash that begins what looks like one of these \\x5c.
    """
    return _TO_ESCAPE.sub(_escape, name)


def escape_path(path: str) -> str:
    """Return `escape_name` of a path on this machine, the same under every locale."""
    return escape_name(os.fsencode(path).decode("utf-8", "surrogateescape"))


def valid_name(name: str) -> str:
    """Return a valid name unchanged, any other one as `escape_name` writes it.

    It is used for names that records have and people type, which stay as they are if possible.
    """
    return name if _SURROGATES.search(name) is None else escape_name(name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == ord("\\"):
        return r"\x5c"
    return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else rf"\u{code:04x}"
