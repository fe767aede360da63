"""A record repaired; or rejected, where so much of it had to be replaced that it is hardly text."""

import dataclasses

from jaxgpt.corpus.document import Document, Rejected
from jaxgpt.corpus.repair import RepairConfig, repair


def clean(
    record: Document | Rejected, config: RepairConfig
) -> tuple[Document | Rejected, dict[str, int]]:
    """Return the record with valid text, and what was repaired in how many places."""
    if isinstance(record, Rejected):
        return record, {}
    repaired = repair(record.text, config)
    share = repaired.num_replaced / max(len(record.text), 1)
    if share > config.max_replaced_share:
        rejected = Rejected(
            id=record.id,
            location=record.location,
            source=record.source,
            reason="invalid_utf8",
            detail=f"{share:.1%} of its characters were not valid UTF-8",
            is_bad=True,
            sample=repaired.text,
        )
        return rejected, repaired.counts
    if repaired.counts:
        record = dataclasses.replace(record, text=repaired.text)
    return record, repaired.counts
