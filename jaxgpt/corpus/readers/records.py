"""Base of all record readers: a record's location, and its `Document` or `Rejected`.

Every record becomes exactly one of the two. Text is passed on as it stands; repair comes later.
"""

from typing import Any

from jaxgpt.corpus.documents.document import Document, Rejected, shorten, valid_name
from jaxgpt.corpus.readers.json_text import Values
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig
from jaxgpt.corpus.readers.streams import FileProblem

Record = Document | Rejected
_NAMES = ("id", "source", "license", "url")
_MAX_NAME_CHARACTERS = 1000
_TRUNCATED, _UNREADABLE = "truncated_record", "unreadable_file"


class RecordFile:
    """A file whose records are being read: of each, the text and a few names.

    Attributes:
        columns: columns of a table that are read; None for all.
        problem: None, or why the file could not be read to its end; readers set it.
        num_partial_records: documents that hold the rest of a damaged record; readers count them.
    """

    def __init__(self, file: InputFile, config: SourcesConfig) -> None:
        self.problem: FileProblem | None = None
        self.num_partial_records = 0
        self.file = file
        self.config = config
        self.columns: tuple[str, ...] | None = (config.text_key, *_NAMES)

    def from_json(self, parsed: Values, line: int) -> list[Record]:
        """Yield the records of JSON values, and one for text that is not JSON."""
        records: list[Record] = []
        for value in parsed.values:
            if isinstance(value, dict):
                records.append(self.from_values(value, line))
            else:
                detail = f"{type(value).__name__} instead of an object"
                records.append(self.reject(line, "not_an_object", detail, is_bad=True))
        if parsed.error is not None:
            detail = f"{type(parsed.error).__name__}: {parsed.error}"
            sample = shorten(parsed.rest[:2000].decode("utf-8", "replace"))
            records.append(self.reject(line, "malformed_json", detail, is_bad=True, sample=sample))
        return records

    def from_values(self, values: dict[str, Any], line: int) -> Record:
        """Return the record with these keys and values."""
        location = self.location(line)
        own_id = _as_name(values.get("id")) or location
        key = self.config.text_key
        text = values.get(key)
        if isinstance(text, str):
            return Document(
                id=own_id,
                text=text,
                location=location,
                source=_as_name(values.get("source")) or self.file.source,
                license=_as_name(values.get("license")),
                url=_as_name(values.get("url")),
            )
        if text is None:
            keys = ", ".join(shorten(str(name), 40) for name in list(values)[:10])
            reason, detail = "no_text", f"no {key!r} among its keys ({keys})"
        else:
            reason, detail = "text_not_a_string", f"{key!r} is {type(text).__name__}"
        return self.reject(line, reason, detail, is_bad=True, id=own_id)

    def num_text_bytes(self, values: dict[str, Any]) -> int:
        """Return the bytes that the text of a record takes, for the limits on its length."""
        return num_bytes_of(values.get(self.config.text_key))

    def location(self, line: int) -> str:
        """Return `path:line`, or for Parquet `path:row`."""
        return f"{self.file.name}:{line}"

    def too_long(self, line: int) -> Rejected:
        """Return the rejection of a record beyond the limit."""
        detail = f"longer than sources.max_record_bytes = {self.config.max_record_bytes}"
        return self.reject(line, "record_too_long", detail)

    def truncated(self, line: int) -> Rejected:
        """Return the rejection of the record in which a damaged file ends."""
        return self.reject(line, _TRUNCATED, "the file ends within it")

    def unreadable(self, detail: str, line: int = 1) -> Rejected:
        """Return the rejection of a file, or of its part from `line` on, that cannot be read."""
        return self.reject(line, _UNREADABLE, detail, is_bad=True)

    def reject(
        self,
        line: int,
        reason: str,
        detail: str,
        is_bad: bool = False,
        sample: str = "",
        id: str = "",
    ) -> Rejected:
        """Return the rejection of a record that is no document."""
        location = self.location(line)
        return Rejected(
            id=id or location,
            location=location,
            source=self.file.source,
            reason=reason,
            detail=shorten(detail, 200),
            is_bad=is_bad,
            sample=sample,
        )


def is_cut(record: Record) -> bool:
    """Return whether it stands for what a damaged file has lost, not for a whole record."""
    return isinstance(record, Rejected) and record.reason in (_TRUNCATED, _UNREADABLE)


def num_bytes_of(text: Any) -> int:
    """Return the bytes that a text takes as it is stored; 0 for anything else."""
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _as_name(value: Any) -> str:
    """Return a short name from a record: strings and integers as valid Unicode, else ""."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _MAX_NAME_CHARACTERS:
        return ""
    return valid_name(value)
