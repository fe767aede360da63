"""What all readers of records share: where a record is, and `Document` or `Rejected` out of it.

Every record becomes exactly one of the two. Text is passed on as it stands; repair comes later.
"""

import json
from typing import Any

from jaxgpt.corpus.document import Document, Rejected, shorten
from jaxgpt.corpus.sources import InputFile, SourcesConfig
from jaxgpt.corpus.streams import FileProblem

Record = Document | Rejected
_MAX_NAME_CHARACTERS = 1000


class RecordFile:
    """A file whose records are being read.

    Attributes:
        problem: None, or why the file could not be read to its end; readers set it.
    """

    def __init__(self, file: InputFile, config: SourcesConfig) -> None:
        self.problem: FileProblem | None = None
        self.file = file
        self.config = config

    def from_json(self, data: bytes, line: int) -> Record:
        """The record whose JSON is `data`."""
        try:
            values = json.loads(data.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            detail = f"{type(error).__name__}: {error}"
            sample = shorten(data[:2000].decode("utf-8", "replace"))
            return self.reject(line, "malformed_json", detail, is_bad=True, sample=sample)
        if not isinstance(values, dict):
            detail = f"{type(values).__name__} instead of an object"
            return self.reject(line, "not_an_object", detail, is_bad=True)
        return self.from_values(values, line)

    def from_values(self, values: dict[str, Any], line: int) -> Record:
        """The record with these keys and values."""
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

    def location(self, line: int) -> str:
        """`path:line`, or for Parquet `path:row`."""
        return f"{self.file.name}:{line}"

    def too_long(self, line: int) -> Rejected:
        """A record beyond the limit."""
        detail = f"longer than sources.max_record_bytes = {self.config.max_record_bytes}"
        return self.reject(line, "record_too_long", detail)

    def truncated(self, line: int) -> Rejected:
        """The record in which a damaged file ends."""
        return self.reject(line, "truncated_record", "the file ends within it")

    def unreadable(self, detail: str) -> Rejected:
        """A file of which nothing can be read."""
        return self.reject(1, "unreadable_file", detail, is_bad=True)

    def reject(
        self,
        line: int,
        reason: str,
        detail: str,
        is_bad: bool = False,
        sample: str = "",
        id: str = "",
    ) -> Rejected:
        """A record that is no document."""
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


def _as_name(value: Any) -> str:
    """A short name out of a record: strings and integers, as valid Unicode; anything else is ""."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _MAX_NAME_CHARACTERS:
        return ""
    return value.encode("utf-8", "replace").decode()
