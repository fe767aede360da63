"""The reader of each kind of file, and reading a file with it."""

import dataclasses
from collections.abc import Callable, Iterator

from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.execution.machine_errors import explain, is_fault_of_machine
from jaxgpt.corpus.readers.csv_records import read_csv, read_tsv
from jaxgpt.corpus.readers.json_records import read_json, read_json_lines
from jaxgpt.corpus.readers.lines import bounded_pieces
from jaxgpt.corpus.readers.parquet_records import read_parquet
from jaxgpt.corpus.readers.records import Record, RecordFile, is_cut
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig
from jaxgpt.corpus.readers.streams import ByteStream, FileProblem

Reader = Callable[[RecordFile, ByteStream], Iterator[Record]]


def read_text(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """Read the whole file as one document, or several if it is longer than a record may be."""
    for number, piece in enumerate(bounded_pieces(stream, file.config.max_record_bytes)):
        data = piece.data
        if piece.is_last and stream.problem is not None:
            # The last line is probably cut in two.
            data = data[: data.rfind(b"\n") + 1]
            if data != piece.data:
                yield file.truncated(piece.number + data.count(b"\n"))
                file.num_partial_records += bool(data)
        if data or (number == 0 and stream.problem is None):
            location = file.location(piece.number)
            text = data.decode("utf-8", "surrogateescape")
            yield Document(id=location, text=text, location=location, source=file.file.source)


READERS: dict[str, Reader] = {
    "text": read_text,
    "jsonl": read_json_lines,
    "json": read_json,
    "parquet": read_parquet,
    "csv": read_csv,
    "tsv": read_tsv,
}


class FileReader:
    """An iterable of the records of one file.

    Attributes:
        problem: None, or after the last record why the file could not be read to its end.
        num_read_bytes: stored bytes read so far.
        num_whole_records: records read so far, without those cut by the file's problem.
    """

    def __init__(
        self,
        file: InputFile,
        config: SourcesConfig,
        make_records: Callable[[InputFile, SourcesConfig], RecordFile] = RecordFile,
    ) -> None:
        """Prepare to read a file.

        Args:
            make_records: makes records of values; `RowFile` leaves the values as they are.
        """
        self.problem: FileProblem | None = None
        self.num_whole_records = 0
        self._records = make_records(file, config)
        self._stream: ByteStream | None = None

    @property
    def num_read_bytes(self) -> int:
        return self._stream.num_read_bytes if self._stream else 0

    def __iter__(self) -> Iterator[Record]:
        """Yield the records.

        Raises:
            JaxgptError: the machine failed, not the file.
        """
        try:
            yield from self._read()
        except Exception as error:
            if is_fault_of_machine(error):
                raise explain(error, self._records.file.name) from error
            raise

    def _read(self) -> Iterator[Record]:
        records = self._records
        try:
            raw = records.file.open()
        except OSError as error:
            if is_fault_of_machine(error):
                raise
            self.problem = FileProblem("unreadable", str(error))
            yield records.unreadable(str(error))
            return
        config, num_records = records.config, 0
        # Records that begin on one line have its number in common.
        location, num_there = "", 0
        with raw:
            self._stream = ByteStream(
                raw,
                records.file.compression,
                config.max_file_bytes,
                config.max_expansion,
                config.max_window_bytes,
            )
            for record in READERS[records.file.kind](records, self._stream):
                num_records += 1
                self.num_whole_records += not is_cut(record)
                num_there = num_there + 1 if record.location == location else 1
                location = record.location
                yield record if num_there == 1 else _numbered(record, num_there)
        self.num_whole_records -= records.num_partial_records
        self.problem = self._stream.problem or records.problem
        if self.problem is not None and num_records == 0:
            yield records.unreadable(self.problem.detail)


def _numbered(record: Record, number: int) -> Record:
    """Return the record with a location, and an id unless it has one, that no other has."""
    location = f"{record.location}#{number}"
    own_id = location if record.id == record.location else record.id
    return dataclasses.replace(record, location=location, id=own_id)
