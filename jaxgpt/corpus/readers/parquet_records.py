"""Records of Parquet files: one row, one record; `path:row` counts rows from 1."""

import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from jaxgpt.corpus.execution.machine_errors import is_fault_of_machine
from jaxgpt.corpus.readers.parquet_batches import RowBatches
from jaxgpt.corpus.readers.records import Record, RecordFile
from jaxgpt.corpus.readers.streams import EXPANSION_FREE_BYTES, ByteStream, FileProblem
from jaxgpt.errors import one_line


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

    try:
        batches = RowBatches(seekable, file.columns)
    except (pa.ArrowException, OSError) as error:
        _raise_if_not_damage(error)
        file.problem = FileProblem("unreadable", one_line(error))
        return
    first_row, num_text_bytes = 1, 0
    for group in range(batches.metadata.num_row_groups):
        row, metadata = first_row, batches.metadata.row_group(group)
        if _expands_too_far(file, *_sizes(metadata, batches)):
            yield file.truncated(row)
            return
        try:
            for values in _rows(file, batches, group):
                num_row_bytes = file.num_text_bytes(values)
                num_text_bytes += num_row_bytes
                if _expands_too_far(file, num_text_bytes, file.file.size):
                    yield file.truncated(row)
                    return
                is_too_long = num_row_bytes > file.config.max_record_bytes
                yield file.too_long(row) if is_too_long else file.from_values(values, row)
                row += 1
        except pa.ArrowNotImplementedError as error:
            # The rows may be good; this version of Arrow cannot tell.
            detail = f"row group {group} has a form that this version of Arrow cannot read"
            file.problem = FileProblem("unreadable", f"{detail}: {one_line(error)}")
            yield file.unreadable(file.problem.detail, row)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            _raise_if_not_damage(error)
            file.problem = FileProblem("truncated", f"row group {group}: {one_line(error)}")
            yield file.truncated(row)
        first_row += metadata.num_rows


def _raise_if_not_damage(error: Exception) -> None:
    if is_fault_of_machine(error):
        raise error


def _expands_too_far(file: RecordFile, num_bytes: int, num_stored_bytes: int) -> bool:
    """Return whether the file exceeds the limits on decompressed size; note the problem."""
    config = file.config
    if num_bytes > config.max_file_bytes:
        detail = f"more than {config.max_file_bytes} bytes when decompressed"
    elif num_bytes > max(EXPANSION_FREE_BYTES, num_stored_bytes * config.max_expansion):
        detail = f"decompresses to over {config.max_expansion:g} times its size"
    else:
        return False
    file.problem = FileProblem("expands_too_far", detail)
    return True


def _sizes(metadata: Any, batches: RowBatches) -> tuple[int, int]:
    """Return (decompressed, stored) bytes of the columns of a row group that are read."""
    columns = (metadata.column(number) for number in range(metadata.num_columns))
    read = [column for column in columns if batches.reads(column.path_in_schema)]
    return (
        sum(column.total_uncompressed_size for column in read),
        sum(column.total_compressed_size for column in read),
    )


def _rows(file: RecordFile, batches: RowBatches, group: int) -> Iterator[dict[str, Any]]:
    """Yield rows as dicts of the needed columns; of all, without values, if none is text."""
    names = batches.names
    if file.columns is not None and file.config.text_key not in names:
        for _ in range(batches.metadata.row_group(group).num_rows):
            yield dict.fromkeys(names)
        return
    for batch in batches.of_group(group):
        values = [_values(column) for column in batch.columns]
        for row in zip(*values, strict=True):
            yield dict(zip(batch.schema.names, row, strict=True))


def _values(column: Any) -> list[Any]:
    """Return a column's values; strings from their bytes, which need not be valid UTF-8."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        # Rows with the same value share one object. A batch has the values of all batches of its
        # group up to it, of which it uses few.
        used, places = np.unique(column.indices.fill_null(-1).to_numpy(), return_inverse=True)
        values = _values(column.dictionary.take(pa.array(used[used >= 0])))
        if -1 in used[:1]:
            values.insert(0, None)
        return [values[place] for place in places.tolist()]
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)):
        return column.to_pylist()
    values = column.cast(pa.large_binary()).to_pylist()
    return [
        value if value is None else value.decode("utf-8", "surrogateescape") for value in values
    ]


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
