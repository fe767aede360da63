"""Division of text between training and validation, a pure function of content and seed.

A `Split` is a choice in a config; `plan` turns it, with a few facts about the whole corpus, into
an `Assignment` that decides document by document.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

from jaxgpt.config import configclass

SPLITS = ("train", "val")


def draw(purpose: str, seed: int, content_hash: bytes) -> int:
    """Return a pseudo-random integer in [0, 2**64) for a document; purposes are independent."""
    return xxhash.xxh3_64_intdigest(f"{purpose}:{seed}:".encode() + content_hash)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """Divides documents between training and validation."""

    note: str = ""
    """Note on it for the user; "" for none."""

    def divide(self, content_hash: bytes, text: str) -> tuple[str, str]:
        """Return (training text, validation text) of a document; either may be empty."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return {"type": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Assignment":
        """Return the assignment that `to_json` wrote.

        Raises:
            KeyError: no class of that name derives from this one.
        """
        known = {cls.__name__: cls for cls in Assignment.__subclasses__()}
        fields = {name: value for name, value in data.items() if name != "type"}
        return known[data["type"]](**fields)


@configclass
class Split:
    """Base of the ways to hold out validation text."""

    def plan(self, content_hashes: Iterable[bytes], seed: int) -> Assignment:
        """Return the assignment for a corpus of documents with these hashes (at least one)."""
        raise NotImplementedError


@configclass
class HashSplit(Split):
    """Whole documents, chosen by content hash: adding documents never moves another one."""

    val_fraction: float = 0.01
    """Share of the documents that is held out for validation; at least one document is."""

    def __post_init__(self) -> None:
        _check_fraction(self.val_fraction)

    def plan(self, content_hashes: Iterable[bytes], seed: int) -> Assignment:
        """Hold out documents that draw below the share; divide a corpus of one document."""
        num_documents = 0
        lowest, highest = 1 << 64, -1
        for content_hash in content_hashes:
            drawn = draw("split", seed, content_hash)
            lowest, highest = min(lowest, drawn), max(highest, drawn)
            num_documents += 1
        if num_documents == 1:
            note = f"one document only: the last {self.val_fraction:.3g} of its text is held out"
            return TailAssignment(val_fraction=self.val_fraction, note=note)
        # At least one document on either side, however few there are.
        threshold = min(max(int(self.val_fraction * 2.0**64), lowest + 1), highest)
        return HashAssignment(threshold=threshold, seed=seed)


@configclass
class TailSplit(Split):
    """The end of every document; for a corpus of one long document, or a few."""

    val_fraction: float = 0.1
    """Share of each document's characters that is held out for validation."""

    def __post_init__(self) -> None:
        _check_fraction(self.val_fraction)

    def plan(self, content_hashes: Iterable[bytes], seed: int) -> Assignment:
        return TailAssignment(val_fraction=self.val_fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashAssignment(Assignment):
    """Documents that draw below `threshold` are for validation."""

    threshold: int
    seed: int

    def divide(self, content_hash: bytes, text: str) -> tuple[str, str]:
        if draw("split", self.seed, content_hash) < self.threshold:
            return "", text
        return text, ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TailAssignment(Assignment):
    """The first `int(length * (1 - val_fraction))` characters are for training."""

    val_fraction: float

    def divide(self, content_hash: bytes, text: str) -> tuple[str, str]:
        cut = int(len(text) * (1 - self.val_fraction))
        # Neither side is empty, unless there is only one character to give.
        cut = max(min(cut, len(text) - 1), 1)
        return text[:cut], text[cut:]


def _check_fraction(val_fraction: float) -> None:
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction = {val_fraction}; it must lie between 0 and 1")
