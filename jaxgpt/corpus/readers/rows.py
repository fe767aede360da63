"""Rows: records of which all values are wanted, not one text.

`FileReader(file, config, RowFile)` yields them; limits, locations and rejections are the same.
"""

import dataclasses
from typing import Any

from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.readers.records import RecordFile, num_bytes_of
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row(Document):
    """A record with its values, before any of them is chosen as its text, which is "".

    Attributes:
        values: by key or column, as the format gives them; all strings in CSV.
    """

    values: dict[str, Any]


class RowFile(RecordFile):
    """A file whose rows are being read, with all columns of a table."""

    def __init__(self, file: InputFile, config: SourcesConfig) -> None:
        super().__init__(file, config)
        self.columns = None

    def num_text_bytes(self, values: dict[str, Any]) -> int:
        """Return the bytes of all strings of a row."""
        return _num_bytes(values)

    def from_values(self, values: dict[str, Any], line: int) -> Row:
        """Return the row with these values."""
        location = self.location(line)
        return Row(id=location, text="", location=location, source=self.file.source, values=values)


def _num_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, list) else num_bytes_of(value)
