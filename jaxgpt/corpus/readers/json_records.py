"""Records of `.jsonl` and `.json` files."""

from collections.abc import Iterator

from jaxgpt.corpus.readers.json_array import array_elements
from jaxgpt.corpus.readers.json_text import JsonText, Values, follow_value, is_blank, parse_values
from jaxgpt.corpus.readers.lines import Line, bounded_lines
from jaxgpt.corpus.readers.records import Record, RecordFile
from jaxgpt.corpus.readers.streams import ByteStream, FileProblem


def read_json_lines(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """Yield one record for each line with a JSON object; blank lines are no records."""
    for line in bounded_lines(stream, file.config.max_record_bytes):
        if _is_record(line):
            yield from _parse_line(file, line, stream)


def read_json(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """Read arrays of objects, objects on one line each and objects over several lines."""
    text = JsonText(stream)
    while mark := text.peek():
        if mark == b"[":
            yield from _parse_array(file, text, stream)
        else:
            yield from _parse_objects(file, text, stream)


def _is_record(line: Line) -> bool:
    return line.data is None or not is_blank(line.data)


def _parse_line(file: RecordFile, line: Line, stream: ByteStream) -> list[Record]:
    if line.data is None:
        return [file.too_long(line.number)]
    if not line.has_newline and stream.problem is not None:
        return [file.truncated(line.number)]
    return file.from_json(parse_values(line.data), line.number)


def _parse_array(file: RecordFile, text: JsonText, stream: ByteStream) -> Iterator[Record]:
    for element in array_elements(text, file.config.max_record_bytes):
        if not element.is_complete:
            file.problem = stream.problem or FileProblem("truncated", "the array has no end")
            if element.data is None or not is_blank(element.data):
                yield file.truncated(element.line)
        elif element.data is None:
            yield file.too_long(element.line)
        elif not is_blank(element.data):
            yield from file.from_json(parse_values(element.data), element.line)
    while (mark := text.peek()) in (b",", b"]", b"}"):
        detail = f"{mark.decode()!r} after the end of an array"
        yield file.reject(text.line, "malformed_json", detail, is_bad=True)
        text.skip(1)


def _parse_objects(file: RecordFile, text: JsonText, stream: ByteStream) -> Iterator[Record]:
    """Yield the objects up to the next array. A damaged one costs only its own line."""
    lines = text.lines(file.config.max_record_bytes)
    while (line := next(lines, None)) is not None:
        rest: Line | None = line
        while rest is not None and _is_record(rest):
            line, rest = rest, None
            if line.data is None or not line.has_newline:
                yield from _parse_line(file, line, stream)
                continue
            parsed = parse_values(line.data)
            yield from file.from_json(Values(parsed.values), line.number)
            if parsed.error is None:
                continue
            text.is_inside_value = True
            gathered, rest = _gather(file, line._replace(data=parsed.rest), lines)
            text.is_inside_value = False
            value = parse_values(b"\n".join(each.data or b"" for each in gathered))
            if len(gathered) > 1 and rest is not None and value.error is None:
                yield from file.from_json(value, line.number)
                continue
            yield from file.from_json(parsed._replace(values=[]), line.number)
            for each in gathered[1:]:
                if _is_record(each):
                    yield from _parse_line(file, each, stream)


def _gather(file: RecordFile, first: Line, lines: Iterator[Line]) -> tuple[list[Line], Line | None]:
    """Return the lines of the value that begins on the first, and the rest of the last of them.

    The rest is None unless the value ends; the lines then are those that were read.
    """
    gathered, num_bytes, depth = [first], len(first.data or b""), 0
    line = first
    while line.data is not None and num_bytes <= file.config.max_record_bytes:
        followed = follow_value(line.data, depth)
        if followed is None or followed == (0, None):
            break
        depth, end = followed
        if end is not None:
            gathered[-1] = line._replace(data=line.data[:end])
            return gathered, line._replace(data=line.data[end:])
        if (line := next(lines, None)) is None:
            break
        gathered.append(line)
        num_bytes += len(line.data or b"") + 1
    return gathered, None
