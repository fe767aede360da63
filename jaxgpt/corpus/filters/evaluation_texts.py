"""Texts of evaluation files, as a model would read them, which a corpus must not contain.

A question and each of its answers are joined, so that text that runs from one into the other is
found too. Every other string of an item counts as a text of its own.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from jaxgpt.errors import BadInputError, UsageError, one_line

# Far above any known benchmark; a corpus given by mistake is refused.
MAX_FILE_BYTES = 1 << 30
MAX_ITEM_CHARACTERS = 1 << 24
_ROWS_AT_A_TIME = 1000
_OPENINGS = ("query", "question", "prompt", "context", "context_options", "passage", "goal")
_ENDINGS = (
    "choices",
    "answer",
    "answers",
    "continuation",
    "completion",
    "canonical_solution",
    "best answer",
    "correct answers",
    "incorrect answers",
    "mc0_targets",
    "mc1_targets",
    "mc2_targets",
)


def read_benchmark(path: str | Path) -> Iterator[list[str]]:
    """Yield the texts of each item of a file that `read_items` reads.

    Raises:
        UsageError, BadInputError: as `read_items`; or an item is beyond the limit.
    """
    for place, item in read_items(path):
        texts = item_texts(item)
        if (length := sum(map(len, texts))) > MAX_ITEM_CHARACTERS:
            raise BadInputError(
                f"{path}:{place} has {length} characters; at most {MAX_ITEM_CHARACTERS} are "
                "allowed: put one item on each line, or split it"
            )
        yield texts


def read_items(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield the place and the value of each item of a file.

    JSON: an object for each line or in an array; CSV and Parquet: rows by column; plain text:
    paragraphs. The place is a line's number, or that of an item in an array or a table.

    Raises:
        UsageError: the file does not exist, or is of another kind.
        BadInputError: it is damaged or beyond the limits; file and place are named.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no evaluation file at {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} is not a readable kind of evaluation file; allowed: {', '.join(_READERS)}"
        )
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise BadInputError(f"{path} has {size} bytes; at most {MAX_FILE_BYTES} are allowed")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8: {error}; convert it") from None


def item_texts(item: Any) -> list[str]:
    """Return the texts of one item: openings joined with endings, and all other strings."""
    if not isinstance(item, dict):
        return list(_strings(item))
    fields = {str(name).lower(): value for name, value in item.items()}
    openings = [text for name in _OPENINGS for text in _strings(fields.pop(name, None))]
    endings = [text for name in _ENDINGS for text in _strings(fields.pop(name, None))]
    if openings and endings:
        texts = [f"{opening} {ending}" for opening in openings for ending in endings]
    else:
        texts = openings + endings
    return texts + list(_strings(list(fields.values())))


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value; where an object maps answers to marks, its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inside in value.items():
            if isinstance(inside, int | float | None):
                yield str(key)
            else:
                yield from _strings(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _strings(inside)


def _read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parse(line, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """Read an array of items, an object whose largest array has them, or a single item."""
    value = _parse(path.read_text("utf-8-sig"), str(path))
    if isinstance(value, dict):
        lists = [inside for inside in value.values() if isinstance(inside, list)]
        objects = [inside for inside in lists if inside and isinstance(inside[0], dict)]
        value = max(objects, key=len, default=[value])
    yield from enumerate(value if isinstance(value, list) else [value], 1)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{place} is not JSON: {error}; repair it or leave it out") from None


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(min(MAX_ITEM_CHARACTERS, sys.maxsize))
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise BadInputError(f"{path}:{reader.line_num} is not CSV: {error}") from None


def _read_plain(path: Path) -> Iterator[tuple[int, Any]]:
    paragraph, start = [], 1
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                start = start if paragraph else number
                paragraph.append(line)
            elif paragraph:
                yield start, "".join(paragraph)
                paragraph = []
    if paragraph:
        yield start, "".join(paragraph)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(_ROWS_AT_A_TIME)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except pyarrow.ArrowInvalid as error:
        raise BadInputError(f"{path} is not Parquet: {one_line(error, 200)}") from None


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".txt": _read_plain,
    ".parquet": _read_parquet,
}
