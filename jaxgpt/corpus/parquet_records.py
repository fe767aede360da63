"""Records of Parquet files: one row, one record; `path:row` counts rows from 1."""

import tempfile
from collections.abc import Iterator
from typing import IO, Any

from jaxgpt.corpus.records import Record, RecordFile
from jaxgpt.corpus.streams import ByteStream, FileProblem

_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 4096


def read_parquet(file: RecordFile, stream: ByteStream) -> Iterator[Record]:
    """Read in batches of bounded size; of a damaged row group, the rows before the damage."""
    if not file.file.compression:
        with file.file.open() as seekable:
            yield from _read_table(file, seekable)
        return
    # Parquet is read from its end, which a compressed stream cannot be.
    with tempfile.TemporaryFile() as unpacked:
        for chunk in stream:
            unpacked.write(chunk)
        unpacked.seek(0)
        yield from _read_table(file, unpacked)


def _read_table(file: RecordFile, seekable: IO[bytes]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(seekable)
    except (pa.ArrowException, OSError) as error:
        file.problem = FileProblem("unreadable", _one_line(error))
        return
    first_row = 1
    for group in range(table.metadata.num_row_groups):
        row = first_row
        try:
            for values in _rows(table, group, file.config.text_key):
                yield file.from_values(values, row)
                row += 1
        except (pa.ArrowException, OSError) as error:
            file.problem = FileProblem("truncated", f"row group {group}: {_one_line(error)}")
            yield file.truncated(row)
        first_row += table.metadata.row_group(group).num_rows


def _rows(table: Any, group: int, text_key: str) -> Iterator[dict[str, Any]]:
    """Rows as dicts of the columns that matter; all of them, without values, if none is text."""
    metadata, names = table.metadata.row_group(group), table.schema_arrow.names
    if text_key not in names:
        for _ in range(metadata.num_rows):
            yield dict.fromkeys(names)
        return
    columns = [name for name in (text_key, "id", "source", "license", "url") if name in names]
    row_bytes = max(metadata.total_byte_size // max(metadata.num_rows, 1), 1)
    batch_rows = min(max(_BATCH_BYTES // row_bytes, 1), _MAX_BATCH_ROWS)
    for batch in table.iter_batches(batch_rows, row_groups=[group], columns=columns):
        values = [_values(column) for column in batch.columns]
        for row in zip(*values, strict=True):
            yield dict(zip(batch.schema.names, row, strict=True))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _values(column: Any) -> list[Any]:
    """A column's values; strings by way of their bytes, which need not be valid UTF-8."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)):
        return column.to_pylist()
    values = column.cast(pa.large_binary()).to_pylist()
    return [
        value if value is None else value.decode("utf-8", "surrogateescape") for value in values
    ]


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
