"""The reader of each kind of file, and reading a file with it."""

from collections.abc import Callable, Iterator

from jaxgpt.corpus.document import Document
from jaxgpt.corpus.json_records import read_json, read_json_lines
from jaxgpt.corpus.lines import bounded_pieces
from jaxgpt.corpus.parquet_records import read_parquet
from jaxgpt.corpus.records import Record, RecordFile
from jaxgpt.corpus.sources import InputFile, SourcesConfig
from jaxgpt.corpus.streams import ByteStream, FileProblem

Reader = Callable[[RecordFile, ByteStream], Iterator[Record]]


def read_text(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """The whole file is one document, or several if it is longer than a record may be."""
    for number, piece in enumerate(bounded_pieces(stream, file.config.max_record_bytes)):
        data = piece.data
        if piece.is_last and stream.problem is not None:
            # The last line is probably cut in two.
            data = data[: data.rfind(b"\n") + 1]
            if data != piece.data:
                yield file.truncated(piece.number + data.count(b"\n"))
        if data or (number == 0 and stream.problem is None):
            location = file.location(piece.number)
            text = data.decode("utf-8", "surrogateescape")
            yield Document(id=location, text=text, location=location, source=file.file.source)


READERS: dict[str, Reader] = {
    "text": read_text,
    "jsonl": read_json_lines,
    "json": read_json,
    "parquet": read_parquet,
}


class FileReader:
    """An iterable of the records of one file.

    Attributes:
        problem: None, or after the last record why the file could not be read to its end.
        num_read_bytes: stored bytes read so far.
    """

    def __init__(self, file: InputFile, config: SourcesConfig) -> None:
        self.problem: FileProblem | None = None
        self._records = RecordFile(file, config)
        self._stream: ByteStream | None = None

    @property
    def num_read_bytes(self) -> int:
        return self._stream.num_read_bytes if self._stream else 0

    def __iter__(self) -> Iterator[Record]:
        records = self._records
        try:
            raw = records.file.open()
        except OSError as error:
            self.problem = FileProblem("unreadable", str(error))
            yield records.unreadable(str(error))
            return
        config, num_records = records.config, 0
        with raw:
            self._stream = ByteStream(
                raw, records.file.compression, config.max_file_bytes, config.max_expansion
            )
            for record in READERS[records.file.kind](records, self._stream):
                num_records += 1
                yield record
        self.problem = self._stream.problem or records.problem
        if self.problem is not None and num_records == 0:
            yield records.unreadable(self.problem.detail)
