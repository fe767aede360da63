"""Records of `.csv` and `.tsv` files: the first row names the columns, every other one is a record.

Quoted fields may hold newlines. A record's line is the one on which its row begins.
"""

import csv
import functools
from collections import deque
from collections.abc import Iterator, Sequence

from jaxgpt.corpus.documents.document import shorten
from jaxgpt.corpus.readers.lines import Line, bounded_lines
from jaxgpt.corpus.readers.records import Record, RecordFile
from jaxgpt.corpus.readers.streams import ByteStream

_MALFORMED = "malformed_csv"
# Of what is read again: so much, and this many times what was read, where a line counts for more
# than its bytes. A file may be made of quotes each of which could be the one that nothing closes.
_MAX_AGAIN_BYTES = 64 << 20
_MAX_AGAIN_TIMES = 4
_LINE_BYTES = 32


def read_csv(file: RecordFile, stream: ByteStream, delimiter: str = ",") -> Iterator[Record]:
    """Yield one record for each row below the column names; blank lines are no records."""
    lines = _Lines(bounded_lines(stream, file.config.max_record_bytes), stream, file)
    # A field is never longer than the lines of its row, which are bounded.
    csv.field_size_limit(max(csv.field_size_limit(), file.config.max_record_bytes))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        lines.begin_row()
        try:
            row = next(rows, None)
        except csv.Error as error:
            if lines.is_at_end and stream.problem is not None:
                lines.cut_at = lines.first_number
                break
            yield _reject(file, lines, str(error))
            yield from _reject_lines(file, lines.go_on_behind_first())
            continue
        except _RowTooLongError:
            yield file.too_long(lines.first_number)
            yield from _reject_lines(file, lines.go_on_behind_first())
            continue
        if row is None:
            break
        if not row:
            continue
        if columns is None:
            columns = row
        elif len(row) == len(columns):
            yield file.from_values(dict(zip(columns, row, strict=True)), lines.first_number)
        else:
            detail = f"{len(row)} fields, where the first row has {len(columns)}"
            yield _reject(file, lines, detail)
    if lines.cut_at is not None:
        yield file.truncated(lines.cut_at)


read_tsv = functools.partial(read_csv, delimiter="\t")


def _reject(file: RecordFile, lines: "_Lines", detail: str) -> Record:
    sample = shorten(lines.first_text)
    return file.reject(lines.first_number, _MALFORMED, detail, is_bad=True, sample=sample)


def _reject_lines(file: RecordFile, lines: Sequence[Line]) -> Iterator[Record]:
    for line in lines:
        if line.data is None or line.data.strip():
            sample = shorten((line.data or b"").decode("utf-8", "surrogateescape"))
            detail = "within quotes that nothing closes"
            yield file.reject(line.number, _MALFORMED, detail, is_bad=True, sample=sample)


class _RowTooLongError(Exception):
    """A row exceeds the limit: a long text, or a quote that nothing closes."""


class _Lines:
    """Lines for `csv.reader`, which requests more until a row is complete.

    Attributes:
        first_number, first_text: of the first line of the row.
        is_at_end: whether there are no more.
        cut_at: the line of the row in which a damaged file ends, or None.
    """

    def __init__(self, lines: Iterator[Line], stream: ByteStream, file: RecordFile) -> None:
        self.first_number = 1
        self.first_text = ""
        self.is_at_end = False
        self.cut_at: int | None = None
        self._lines = lines
        self._again: deque[Line] = deque()
        self._stream = stream
        self._max_bytes = file.config.max_record_bytes
        self._row: list[Line] = []
        self._num_bytes = 0
        self._num_read_bytes = 0
        self._num_again_bytes = 0

    def __iter__(self) -> "_Lines":
        return self

    def begin_row(self) -> None:
        """Forget the lines so far."""
        self._row, self._num_bytes = [], 0

    def go_on_behind_first(self) -> list[Line]:
        """Read the row's lines again, except its first: a stray quote costs one line.

        Returns:
            Lost lines: all others of the row, if too much was read again before.
        """
        others = self._row[1:]
        self._num_again_bytes += (len(others) > 0) * (self._num_bytes + len(others) * _LINE_BYTES)
        if self._num_again_bytes > _MAX_AGAIN_BYTES + _MAX_AGAIN_TIMES * self._num_read_bytes:
            return others
        self._again.extendleft(reversed(others))
        return []

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if line is None:
            self.is_at_end = True
            raise StopIteration
        if not line.has_newline and self._stream.problem is not None:
            self.cut_at = self._row[0].number if self._row else line.number
            self.is_at_end = True
            raise StopIteration
        self._row.append(line)
        text = "" if line.data is None else line.data.decode("utf-8", "surrogateescape")
        if len(self._row) == 1:
            self.first_number, self.first_text = line.number, text
        self._num_bytes += len(line.data or b"") + 1
        if line.data is None or self._num_bytes > self._max_bytes + 1:
            raise _RowTooLongError
        return text + "\n"

    def _read(self) -> Line | None:
        line = next(self._lines, None)
        if line is not None:
            self._num_read_bytes += len(line.data or b"") + _LINE_BYTES
        return line
