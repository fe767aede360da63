"""Records of `.jsonl` and `.json` files."""

import itertools
from collections.abc import Iterable, Iterator

from jaxgpt.corpus.document import Document, Rejected
from jaxgpt.corpus.json_array import array_elements
from jaxgpt.corpus.lines import Line, bounded_lines
from jaxgpt.corpus.records import Record, RecordFile
from jaxgpt.corpus.streams import ByteStream, FileProblem

_BOM = b"\xef\xbb\xbf"


def read_json_lines(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """One JSON object on each line; blank lines are no records."""
    yield from _parse_lines(file, bounded_lines(stream, file.config.max_record_bytes), stream)


def read_json(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """An array of objects; or JSON lines under another name; or a single object."""
    chunks = iter(stream)
    head = b""
    for chunk in chunks:
        head += chunk
        if head.removeprefix(_BOM).strip():
            break
    chunks = itertools.chain([head], chunks)
    if head.removeprefix(_BOM).lstrip().startswith(b"["):
        yield from _parse_array(file, chunks, stream)
        return
    lines = bounded_lines(chunks, file.config.max_record_bytes)
    first = next((line for line in lines if line.data is None or line.data.strip()), None)
    if first is None:
        return
    if first.data is None or isinstance(file.from_json(first.data, first.number), Document):
        yield from _parse_lines(file, itertools.chain([first], lines), stream)
    else:
        yield from _parse_object_or_lines(file, first, lines, stream)


def _parse_lines(file: RecordFile, lines: Iterable[Line], stream: ByteStream) -> Iterator[Record]:
    for line in lines:
        if line.data is None:
            yield file.too_long(line.number)
        elif not line.has_newline and stream.problem is not None:
            yield file.truncated(line.number)
        elif line.data.strip():
            yield file.from_json(line.data, line.number)


def _parse_array(file: RecordFile, chunks: Iterable[bytes], stream: ByteStream) -> Iterator[Record]:
    for element in array_elements(chunks, file.config.max_record_bytes):
        if not element.is_complete:
            file.problem = stream.problem or FileProblem("truncated", "the array has no end")
            if element.data is None or element.data.strip():
                yield file.truncated(element.line)
        elif element.data is None:
            yield file.too_long(element.line)
        else:
            yield file.from_json(element.data, element.line)


def _parse_object_or_lines(
    file: RecordFile, first: Line, lines: Iterator[Line], stream: ByteStream
) -> Iterator[Record]:
    """The first line is no document: an object over several lines, or lines of which it is bad."""
    gathered, num_bytes = [first], len(first.data or b"")
    for line in lines:
        gathered.append(line)
        num_bytes += len(line.data or b"") + 1
        if num_bytes > file.config.max_record_bytes or line.data is None:
            break
    else:
        whole = b"\n".join(line.data or b"" for line in gathered)
        record = file.from_json(whole, first.number)
        if not (isinstance(record, Rejected) and record.reason == "malformed_json"):
            yield record
            return
    yield from _parse_lines(file, itertools.chain(gathered, lines), stream)
