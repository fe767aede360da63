"""Rows of a Parquet file in batches of bounded size, however large its row groups are.

Columns are read through a buffer, so that only some pages of a row group are in memory. A batch has
few rows, and fewer if texts are long. A file can say in a few bytes that a very long text occurs
very often, so the length of such texts is found before they are decoded.
"""

from collections.abc import Iterator, Sequence
from typing import IO, Any

# Decoded, of a batch.
_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 32
# Decoded, of a batch of which every row has the longest text of a dictionary.
_MAX_UNFOLDED_BYTES = 64 << 20
# A smaller column can at most give a batch of 32 times its size.
_HARMLESS_COLUMN_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 20
# Columns that are dictionaries by their schema come with the whole dictionary in each batch.
_MAX_DICTIONARY_BATCH_ROWS = 4096
# Texts stored as a share of the text before, and what follows it.
_DELTA = "DELTA_BYTE_ARRAY"
_DICTIONARIES = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
_MAX_DELTA_BYTES = 1 << 30
_MIN_DELTA_BATCH_ROWS = 8


class RowBatches:
    """Batches of an open Parquet file.

    Attributes:
        metadata: the file's.
        names: of all of its columns.
    """

    def __init__(self, seekable: IO[bytes], columns: Sequence[str] | None) -> None:
        """Open the file; those of `columns` that it has are read, or all of its columns.

        Raises:
            pyarrow.ArrowException, OSError: it is not a Parquet file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._seekable = seekable
        self._table = pq.ParquetFile(seekable, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        self.metadata = self._table.metadata
        schema = self._table.schema_arrow
        self.names: list[str] = schema.names
        wanted = self.names if columns is None else columns
        self._columns = [name for name in wanted if name in self.names]
        self._has_dictionary_type = any(
            pa.types.is_dictionary(schema.field(name).type) for name in self._columns
        )
        self._num_rows = 1

    def reads(self, path: str) -> bool:
        """Return whether a stored column, such as `text` or `messages.list.element.role`, is read.

        The column of a nested type is stored as several, whose paths begin with its name.
        """
        return any(path == name or path.startswith(f"{name}.") for name in self._columns)

    def of_group(self, group: int) -> Iterator[Any]:
        """Yield the record batches of a row group.

        Raises:
            pyarrow.ArrowException, OSError: it is damaged.
        """
        if self._has_dictionary_type:
            yield from self._of_dictionary_group(group)
            return
        max_rows = self._max_rows(group)
        self._num_rows = min(self._num_rows, max_rows)
        batches = self._table.iter_batches(
            self._num_rows, row_groups=[group], columns=self._columns, use_threads=False
        )
        for batch in batches:
            yield batch
            row_bytes = max(batch.nbytes // max(batch.num_rows, 1), 1)
            num_rows = min(2 * self._num_rows, max_rows, max(_BATCH_BYTES // row_bytes, 1))
            if num_rows != self._num_rows:
                # Holds from the next batch on.
                self._table.reader.set_batch_size(num_rows)
                self._num_rows = num_rows

    def _of_dictionary_group(self, group: int) -> Iterator[Any]:
        metadata = self.metadata.row_group(group)
        row_bytes = max(metadata.total_byte_size // max(metadata.num_rows, 1), 1)
        num_rows = min(max(_BATCH_BYTES // row_bytes, 1), _MAX_DICTIONARY_BATCH_ROWS)
        yield from self._table.iter_batches(num_rows, row_groups=[group], columns=self._columns)

    def _max_rows(self, group: int) -> int:
        """Return how many rows may be decoded together if each has the group's longest text."""
        metadata = self.metadata.row_group(group)
        chunks = map(metadata.column, range(metadata.num_columns))
        # No text is longer than its column.
        large = [
            chunk
            for chunk in chunks
            if self.reads(chunk.path_in_schema)
            and chunk.total_uncompressed_size > _HARMLESS_COLUMN_BYTES
        ]
        max_rows = _MAX_BATCH_ROWS
        for chunk in large:
            if _DELTA in chunk.encodings:
                # Which of its texts are long is not known before they are decoded.
                num_rows = _MAX_DELTA_BYTES // chunk.total_uncompressed_size
                max_rows = min(max_rows, max(num_rows, _MIN_DELTA_BATCH_ROWS))
        packed = [c.path_in_schema for c in large if _DICTIONARIES & set(c.encodings)]
        if packed and (longest := self._longest_of_dictionaries(group, packed)):
            max_rows = min(max_rows, max(_MAX_UNFOLDED_BYTES // longest, 1))
        return max_rows

    def _longest_of_dictionaries(self, group: int, columns: Sequence[str]) -> int:
        """Return the bytes of the longest text of the dictionaries of some columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        longest = 0
        for name in columns:
            table = pq.ParquetFile(
                self._seekable,
                metadata=self.metadata,
                read_dictionary=[name],
                buffer_size=_BUFFER_BYTES,
                pre_buffer=False,
            )
            rows = table.iter_batches(1, row_groups=[group], columns=[name], use_threads=False)
            try:
                column = next(iter(rows)).column(0)
            except (pa.ArrowNotImplementedError, StopIteration):
                # The first page has no dictionary, so there is none; or there is no row.
                continue
            if pa.types.is_dictionary(column.type) and len(column.dictionary):
                values = column.dictionary.cast(pa.large_binary()).to_pylist()
                longest = max(longest, *map(len, values))
        return longest
