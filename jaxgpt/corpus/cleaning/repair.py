"""Repair of text that was damaged on its way: bad encoding, control characters, line ends.

A record is rejected if too much of it had to be replaced.
"""

import dataclasses
import re
import unicodedata
from typing import Literal, NamedTuple

from jaxgpt.config import configclass
from jaxgpt.corpus.documents.document import Document, Rejected

REPLACEMENT = "\ufffd"
# `surrogateescape` puts bytes that are not UTF-8 at U+DC80..U+DCFF.
_SURROGATES = re.compile("[\ud800-\udfff]")
_INVALID_BYTES = re.compile("[\udc80-\udcff]")
# C0 but tab and newline, DEL, C1; NUL has a count of its own.
_CONTROLS = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f]+")
# Vertical tab, form feed, the separators of files, groups and records, next line; and of units.
_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85]")
_UNIT_SEPARATOR = "\x1f"


@configclass
class RepairConfig:
    """Repair of damaged text."""

    max_replaced_share: float = 0.01
    """Largest share of characters that were not valid UTF-8; a document with more is dropped."""
    unicode_form: Literal["as_is", "NFC"] = "as_is"
    """Unicode normalisation. NFC: compose characters (e + accent becomes one); as_is: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_replaced_share <= 1:
            raise ValueError(
                f"max_replaced_share = {self.max_replaced_share}; it must lie in [0, 1]"
            )


class Repaired(NamedTuple):
    """`counts` has, for each kind of damage found, the number of places."""

    text: str
    counts: dict[str, int]

    @property
    def num_replaced(self) -> int:
        """Number of characters that became U+FFFD."""
        return self.counts.get("invalid_bytes", 0) + self.counts.get("lone_surrogates", 0)


def repair(text: str, config: RepairConfig) -> Repaired:
    """Return valid, readable Unicode.

    Invalid bytes (read with `surrogateescape`) and lone surrogates become U+FFFD; CRLF and CR
    become newlines; byte order marks, NUL and control characters but tab and newline go. Control
    characters that end a line leave a newline, and a unit separator a space, between two words.
    """
    counts: dict[str, int] = {}
    if not text.isascii():
        text = _repair_encoding(text, config, counts)
    if "\r" in text:
        counts["carriage_returns"] = text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        counts["nul"] = text.count("\0")
        text = text.replace("\0", "")
    if _CONTROLS.search(text):
        counts["control_characters"] = sum(map(len, _CONTROLS.findall(text)))
        text = _CONTROLS.sub(_replace_controls, text)
    return Repaired(text, counts)


def _replace_controls(found: re.Match[str]) -> str:
    """Return the separator of two words for the control characters between them."""
    start, end = found.span()
    around = found.string[max(start - 1, 0) : start], found.string[end : end + 1]
    if any(not character or character.isspace() for character in around):
        return ""
    if _LINE_ENDS.search(found.group()):
        return "\n"
    return " " if _UNIT_SEPARATOR in found.group() else ""


def _repair_encoding(text: str, config: RepairConfig, counts: dict[str, int]) -> str:
    if _SURROGATES.search(text):
        num_invalid = len(_INVALID_BYTES.findall(text))
        text, num_replaced = _SURROGATES.subn(REPLACEMENT, text)
        found = {"invalid_bytes": num_invalid, "lone_surrogates": num_replaced - num_invalid}
        counts.update({kind: count for kind, count in found.items() if count})
    if "\ufeff" in text:
        counts["byte_order_marks"] = text.count("\ufeff")
        text = text.replace("\ufeff", "")
    if config.unicode_form == "NFC" and not unicodedata.is_normalized("NFC", text):
        counts["not_nfc"] = 1
        text = unicodedata.normalize("NFC", text)
    return text


def clean(
    record: Document | Rejected, config: RepairConfig
) -> tuple[Document | Rejected, dict[str, int]]:
    """Return the record with valid text, and the number of repairs by kind."""
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
