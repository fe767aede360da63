"""The account of a build: what was read, what was dropped and why, what was repaired, by source.

Tallies of parts are merged in the order of the parts, so the account is as reproducible as the
data. `read = kept + sum(dropped by reason)` holds for every tally, in documents and, less what was
edited out, in bytes, and is checked.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from jaxgpt.corpus.documents.document import Document, Rejected, shorten

MAX_SAMPLES = 5
# A corpus may name a source per document (its URL); the account keeps the largest.
MAX_SOURCES = 1000
OTHER_SOURCES = "(other sources)"


@dataclasses.dataclass(kw_only=True)
class SourceCounts:
    """Documents of one source: read = kept + sum(dropped), once all stages are done.

    Attributes:
        read_bytes: of the text of the documents read, repaired.
        dropped: documents by reason.
        dropped_at, dropped_bytes: the same documents, and their bytes, by stage.
        edited_bytes: by stage, bytes that it took out of documents; negative if it added.
        num_bytes, num_tokens: of the documents kept.
        num_repeats, repeat_bytes, repeat_tokens: second and further copies for training, which a
            weight asked for; they count nowhere else.
    """

    read: int = 0
    read_bytes: int = 0
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped_at: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    edited_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    kept: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_repeats: int = 0
    repeat_bytes: int = 0
    repeat_tokens: int = 0
    licenses: list[str] = dataclasses.field(default_factory=list)

    def count_repeats(self, copies: "SourceCounts") -> None:
        """Count further copies of kept documents; `copies` has their counts."""
        self.num_repeats += copies.kept
        self.repeat_bytes += copies.num_bytes
        self.repeat_tokens += copies.num_tokens

    def add(self, other: "SourceCounts") -> None:
        """Count the documents of `other` too."""
        _add_counts(self, other)
        self.licenses = sorted({*self.licenses, *other.licenses})[:MAX_SAMPLES]

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists."""
        # Not dataclasses.asdict, which makes a Counter of a Counter's items.
        values = vars(self).items()
        return {
            name: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for name, value in values
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SourceCounts":
        """Return the counts that `to_json` wrote."""
        return cls(**_with_counters(cls, data))


@dataclasses.dataclass(kw_only=True)
class DocumentCounts:
    """Counts of a part, or of parts together.

    Bytes are those of documents' text as UTF-8, after repair; a record that is no document has 0.

    Attributes:
        num_read: records, good and bad.
        num_kept: of these, documents that are still in.
        dropped: documents by reason.
        bad: of these, the ones that count towards `sources.max_bad_share`.
        read_bytes, kept_bytes, dropped_bytes: the same in bytes.
        edited_documents: by stage, documents whose text it changed.
        edited_bytes: by stage, bytes that it took out of documents; negative if it added.
        repaired_documents, repaired_places: by kind of damage, documents that had it, and places.
        sources: by name.
        samples: by reason, a few dropped documents: location, detail, text, source.
    """

    num_read: int = 0
    num_kept: int = 0
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    bad: Counter[str] = dataclasses.field(default_factory=Counter)
    read_bytes: int = 0
    kept_bytes: int = 0
    dropped_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    edited_documents: Counter[str] = dataclasses.field(default_factory=Counter)
    edited_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    repaired_documents: Counter[str] = dataclasses.field(default_factory=Counter)
    repaired_places: Counter[str] = dataclasses.field(default_factory=Counter)
    sources: dict[str, SourceCounts] = dataclasses.field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)

    def count_read(self, record: Document | Rejected) -> None:
        """Count a record, which is kept until it is dropped; `count_text` counts its bytes."""
        self.num_read += 1
        self.num_kept += 1
        tally = self._source(record.source)
        tally.read += 1
        license = record.license if isinstance(record, Document) else ""
        if license and license not in tally.licenses:
            tally.add(SourceCounts(licenses=[license]))

    def count_text(self, source: str, num_bytes: int) -> None:
        """Count the text of the record that was counted last, which is a document."""
        self.read_bytes += num_bytes
        self.kept_bytes += num_bytes
        self._source(source).read_bytes += num_bytes

    def count_dropped(
        self,
        source: str,
        stage: str,
        reason: str,
        num_bytes: int,
        sample: dict[str, str],
        is_bad: bool = False,
    ) -> None:
        """Count a document as dropped."""
        self.num_kept -= 1
        self.kept_bytes -= num_bytes
        self.dropped[reason] += 1
        self.dropped_bytes[reason] += num_bytes
        of_source = self._source(source)
        of_source.dropped[reason] += 1
        of_source.dropped_at[stage] += 1
        of_source.dropped_bytes[stage] += num_bytes
        if is_bad:
            self.bad[reason] += 1
        samples = self.samples.setdefault(reason, [])
        if len(samples) < MAX_SAMPLES:
            samples.append({**sample, "source": source})

    def count_edited(self, source: str, stage: str, num_bytes: int) -> None:
        """Count a kept document that lost `num_bytes` of text; negative if it gained."""
        self.edited_documents[stage] += 1
        self.edited_bytes[stage] += num_bytes
        self.kept_bytes -= num_bytes
        self._source(source).edited_bytes[stage] += num_bytes

    def count_repaired(self, counts: dict[str, int]) -> None:
        """Count a repaired document; `counts` as of `repair`."""
        self.repaired_documents.update(counts.keys())
        self.repaired_places.update(counts)

    def merge(self, other: "DocumentCounts") -> None:
        """Add the counts of another part, or of a later stage that dropped and edited."""
        _add_counts(self, other)
        for name, source in other.sources.items():
            self._source(name).add(source)
        for reason, samples in other.samples.items():
            mine = self.samples.setdefault(reason, [])
            mine.extend(samples[: MAX_SAMPLES - len(mine)])

    def merge_later_stage(self, other: "DocumentCounts") -> None:
        """Add counts as `merge` does, for documents that were counted as read before."""
        self.merge(other.folded(self.sources))

    def merge_added(self, other: "DocumentCounts") -> None:
        """Add counts of added text as `merge` does, with the names of `named_sources`."""
        if OTHER_SOURCES in self.sources:
            self.merge_later_stage(other)
            return
        self.merge(other)
        names = named_sources({name: source.read for name, source in self.sources.items()})
        self.sources = self.folded(names).sources

    def folded(self, names: Collection[str]) -> "DocumentCounts":
        """Return the counts with all sources but these counted together."""
        sources: dict[str, SourceCounts] = {}
        for name, source in self.sources.items():
            known = name if name in names else OTHER_SOURCES
            sources.setdefault(known, SourceCounts()).add(source)
        return dataclasses.replace(self, sources=sources)

    def check(self) -> None:
        """Raise if the account does not close: that would be a defect of this program."""
        if self.num_read != self.num_kept + self.dropped.total():
            raise AssertionError(
                f"{self.num_read} records were read, but {self.num_kept} kept and "
                f"{self.dropped.total()} dropped: {dict(self.dropped)}"
            )
        gone = self.dropped_bytes.total() + self.edited_bytes.total()
        if self.read_bytes != self.kept_bytes + gone:
            raise AssertionError(
                f"{self.read_bytes} bytes were read, but {self.kept_bytes} kept, dropped "
                f"{dict(self.dropped_bytes)} and edited out {dict(self.edited_bytes)}"
            )

    def check_kept(self) -> None:
        """Raise if what the sources have kept is not what the stages left, as `check` does."""
        for name, source in self.sources.items():
            if any(value < 0 for value in vars(source).values() if isinstance(value, int)):
                raise AssertionError(f"{name}: the account has negative counts: {source}")
            num_dropped = source.dropped.total()
            gone = source.dropped_bytes.total() + source.edited_bytes.total()
            if (
                source.read != source.kept + num_dropped
                or source.dropped_at.total() != num_dropped
                or source.read_bytes != source.num_bytes + gone
            ):
                raise AssertionError(f"{name}: the account does not close: {source}")
        num_bytes = sum(source.num_bytes for source in self.sources.values())
        if num_bytes != self.kept_bytes:
            raise AssertionError(f"{num_bytes} bytes are kept, but {self.kept_bytes} were left")

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        sources = {name: source.to_json() for name, source in self.sources.items()}
        return fields | {"sources": sources}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DocumentCounts":
        """Return the counts that `to_json` wrote."""
        data = _with_counters(cls, data)
        sources = data["sources"].items()
        data["sources"] = {name: SourceCounts.from_json(source) for name, source in sources}
        return cls(**data)

    def _source(self, name: str) -> SourceCounts:
        return self.sources.setdefault(name, SourceCounts())


def named_sources(num_read: Mapping[str, int], stored: DocumentCounts | None = None) -> set[str]:
    """Return the sources that are counted by name, those with most records; others are one.

    It is settled once, of all that is read: were a source named in one part and not in the next,
    its counts would lie in two places.

    Args:
        num_read: records by source.
        stored: of the dataset that they are added to. Once some of its sources have no name, no
            further one gets any.
    """
    known = {} if stored is None else stored.sources
    if OTHER_SOURCES in known:
        return set(known)
    sizes = Counter(num_read)
    sizes.update({name: source.read for name, source in known.items()})
    if len(sizes) <= MAX_SOURCES:
        return set(sizes)
    by_size = sorted(sizes.keys() - {OTHER_SOURCES}, key=lambda name: (-sizes[name], name))
    return set(by_size[: MAX_SOURCES - 1])


def _add_counts(mine: Any, theirs: Any) -> None:
    """Add up the numbers and counters of two objects of one dataclass."""
    for field in dataclasses.fields(mine):
        value = getattr(mine, field.name)
        if isinstance(value, int):
            setattr(mine, field.name, value + getattr(theirs, field.name))
        elif isinstance(value, Counter):
            value.update(getattr(theirs, field.name))


def _with_counters(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of JSON values, with counters where `cls` has them."""
    counters = {
        field.name: Counter(data[field.name])
        for field in dataclasses.fields(cls)
        if field.default_factory is Counter
    }
    return data | counters


def make_sample(location: str, detail: str, text: str) -> dict[str, str]:
    """Return a dropped document, for the report."""
    return {"location": location, "detail": detail, "text": shorten(text)}
