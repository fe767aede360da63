"""Checks that the input is good enough to continue, and their messages."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.corpus.readers.sources import Inputs, SourcesConfig
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.errors import BadInputError
from jaxgpt.reports.console import format_count

logger = logging.getLogger(__name__)

_MAX_EXAMPLES = 3
_MAX_WARNINGS = 10


def check_read(
    tally: DocumentCounts, files: Sequence[Mapping[str, Any]], config: SourcesConfig
) -> None:
    """Warn of damaged files.

    Args:
        files: all that were read.

    Raises:
        BadInputError: more bad records than `config.max_bad_share` allows, or unreadable files hold
            more of the stored bytes; or a damaged file where `config.truncated_files` refuses it.
    """
    damaged = [file for file in files if "problem" in file]
    for file in damaged[:_MAX_WARNINGS]:
        logger.warning(
            "%s is %s (%s); whole records that were read: %d",
            file["name"],
            file["problem"].replace("_", " "),
            file["detail"],
            file["num_records"],
        )
    if len(damaged) > _MAX_WARNINGS:
        logger.warning("... and %d more damaged files", len(damaged) - _MAX_WARNINGS)
    if damaged and config.truncated_files == "refuse":
        raise BadInputError(
            f"{len(damaged)} damaged file(s), the first {damaged[0]['name']}: "
            f"{damaged[0]['detail']}; repair it, or keep what can be read of it with "
            f"--sources.truncated-files keep"
        )
    _check_lost(damaged, sum(file["num_bytes"] for file in files), config)
    num_bad = tally.bad.total()
    share = num_bad / max(tally.num_read, 1)
    if share > config.max_bad_share:
        raise BadInputError(
            f"{num_bad} of {tally.num_read} records are bad ({share:.1%}; at most "
            f"{config.max_bad_share:.1%} may be): {_examples(tally)}; correct them, name the right "
            f"key with --sources.text-key, or allow more with --sources.max-bad-share"
        )
    if num_bad:
        logger.warning("%d of %d records are bad: %s", num_bad, tally.num_read, _examples(tally))


def check_left(tally: DocumentCounts, inputs: Inputs) -> None:
    """Check that there is any document to build a dataset from.

    Raises:
        BadInputError: there is not.
    """
    tally.check()
    if tally.num_kept:
        return
    if not inputs.files:
        raise BadInputError(
            f"the input holds no file that can be read; passed over: "
            f"{'; '.join(inputs.passed_over) or _counts(inputs.skipped)}"
        )
    read = f"{format_count(tally.num_read, 'record')} in {format_count(len(inputs.files), 'file')}"
    raise BadInputError(f"no document is left of {read}; dropped: {_counts(tally.dropped)}")


def _check_lost(
    damaged: Sequence[Mapping[str, Any]], num_bytes: int, config: SourcesConfig
) -> None:
    """Raise if files without a single record hold too much of the input.

    Each of them is one bad record, however many records it would have had.
    """
    lost = [file for file in damaged if not file["num_records"]]
    share = sum(file["num_bytes"] for file in lost) / max(num_bytes, 1)
    if share > config.max_bad_share:
        raise BadInputError(
            f"nothing could be read of {len(lost)} file(s), which hold {share:.1%} of the input's "
            f"bytes (at most {config.max_bad_share:.1%} may be lost); the first is "
            f"{lost[0]['name']}: {lost[0]['detail']}; repair or leave them out, or allow more with "
            f"--sources.max-bad-share"
        )


def _examples(tally: DocumentCounts) -> str:
    """Return `file:line: reason: detail` of the first few bad records."""
    bad = [
        f"{sample['location']}: {reason}: {sample['detail']}"
        for reason, samples in sorted(tally.samples.items())
        for sample in samples
        if reason in tally.bad
    ]
    return "; ".join(bad[:_MAX_EXAMPLES])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"
