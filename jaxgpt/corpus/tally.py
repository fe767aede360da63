"""The account of a build: what was read, what was dropped and why, what was repaired, by source.

Tallies of parts are merged in the order of the parts, so the account is as reproducible as the
data. `documents read = kept + sum(dropped by reason)` holds for every tally, and is checked.
"""

import dataclasses
from collections import Counter
from typing import Any

from jaxgpt.corpus.document import Document, Rejected, shorten

MAX_SAMPLES = 5
# A corpus may name a source per document (its URL); the account keeps the largest.
MAX_SOURCES = 1000
OTHER_SOURCES = "(other sources)"


@dataclasses.dataclass(kw_only=True)
class SourceTally:
    """Documents of one source."""

    read: int = 0
    kept: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    licenses: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "SourceTally") -> None:
        """Count the documents of `other` too."""
        self.read += other.read
        self.kept += other.kept
        self.num_bytes += other.num_bytes
        self.num_tokens += other.num_tokens
        self.licenses = sorted({*self.licenses, *other.licenses})[:MAX_SAMPLES]


@dataclasses.dataclass(kw_only=True)
class Tally:
    """Counts of a part, or of parts together.

    Attributes:
        num_read: records, good and bad.
        num_kept: of these, documents that are still in.
        dropped: documents by reason.
        bad: of these, the ones that count towards `sources.max_bad_share`.
        repaired: by kind of damage, documents that had it, and places.
        sources: by name.
        samples: by reason, a few dropped documents: location, detail, text.
    """

    num_read: int = 0
    num_kept: int = 0
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    bad: Counter[str] = dataclasses.field(default_factory=Counter)
    repaired_documents: Counter[str] = dataclasses.field(default_factory=Counter)
    repaired_places: Counter[str] = dataclasses.field(default_factory=Counter)
    sources: dict[str, SourceTally] = dataclasses.field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)

    def count_read(self, record: Document | Rejected) -> None:
        """A record came in; it is kept until it is dropped."""
        self.num_read += 1
        self.num_kept += 1
        tally = self.sources.setdefault(record.source, SourceTally())
        tally.read += 1
        license = record.license if isinstance(record, Document) else ""
        if license and license not in tally.licenses:
            tally.add(SourceTally(licenses=[license]))

    def count_dropped(self, reason: str, sample: dict[str, str], is_bad: bool = False) -> None:
        """One of the documents goes."""
        self.num_kept -= 1
        self.dropped[reason] += 1
        if is_bad:
            self.bad[reason] += 1
        samples = self.samples.setdefault(reason, [])
        if len(samples) < MAX_SAMPLES:
            samples.append(sample)

    def count_repaired(self, counts: dict[str, int]) -> None:
        """A document was repaired; `counts` as of `repair`."""
        self.repaired_documents.update(counts.keys())
        self.repaired_places.update(counts)

    def merge(self, other: "Tally") -> None:
        """Add the counts of another part."""
        self.num_read += other.num_read
        self.num_kept += other.num_kept
        self.dropped.update(other.dropped)
        self.bad.update(other.bad)
        self.repaired_documents.update(other.repaired_documents)
        self.repaired_places.update(other.repaired_places)
        for name, source in other.sources.items():
            self.sources.setdefault(name, SourceTally()).add(source)
        for reason, samples in other.samples.items():
            mine = self.samples.setdefault(reason, [])
            mine.extend(samples[: MAX_SAMPLES - len(mine)])

    def drop(self, num_documents: Counter[str], samples: dict[str, list[dict[str, str]]]) -> None:
        """Documents counted as kept go after all, by a later stage."""
        self.merge(Tally(num_kept=-num_documents.total(), dropped=num_documents, samples=samples))

    def fold_sources(self, limit: int = MAX_SOURCES) -> None:
        """Keep the sources with most documents by name and count the others together."""
        if len(self.sources) <= limit:
            return
        by_size = sorted(self.sources.items(), key=lambda item: (-item[1].read, item[0]))
        self.sources = dict(by_size[: limit - 1])
        others = self.sources.setdefault(OTHER_SOURCES, SourceTally())
        for _, source in by_size[limit - 1 :]:
            others.add(source)

    def check(self) -> None:
        """Raise if the account does not close: that would be a defect of this program."""
        if self.num_read != self.num_kept + self.dropped.total():
            raise AssertionError(
                f"{self.num_read} records were read, but {self.num_kept} kept and "
                f"{self.dropped.total()} dropped: {dict(self.dropped)}"
            )

    def to_json(self) -> dict[str, Any]:
        """As plain dicts and lists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        sources = {name: dataclasses.asdict(source) for name, source in self.sources.items()}
        return fields | {"sources": sources}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Tally":
        """Back from `to_json`."""
        data = dict(data)
        for name in ("dropped", "bad", "repaired_documents", "repaired_places"):
            data[name] = Counter(data[name])
        data["sources"] = {name: SourceTally(**source) for name, source in data["sources"].items()}
        return cls(**data)


def make_sample(location: str, detail: str, text: str) -> dict[str, str]:
    """A dropped document, for the report."""
    return {"location": location, "detail": detail, "text": shorten(text)}
