"""Samples in reports that show text of documents that are taken down, found and left out.

A sample of another document may show the same text: it may have been dropped as a near duplicate.
So samples are compared by their words, and one that has five in a row in common goes.
"""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.stats.account import Account

_NGRAM = 5
# A text so short, or a sample, may have fewer words than that; it is looked for as it is.
_SHORT_CHARACTERS = 100
_TEXTS_AT_ONCE = 256


class Scrubber:
    """Looks for the samples of an account in texts that go."""

    def __init__(self, account: Account, sources: Collection[str], locations: Collection[str]):
        """Hide documents of these sources and locations, whatever their text."""
        self._account = account
        self._samples = [
            *(sample for those in account.tally.samples.values() for sample in those),
            *(one for family in account.near_duplicate_examples for one in _members(family)),
            *(one for those in account.measures.get("extremes", {}).values() for one in those),
        ]
        self._texts = [sample["text"].removesuffix("...").strip() for sample in self._samples]
        self._is_found = [
            sample.get("source") in sources or sample["location"] in locations
            for sample in self._samples
        ]
        shingles = shingle(self._texts, _NGRAM)
        self._hashes_S = shingles.hashes_S
        self._owners_S = np.repeat(np.arange(len(self._texts)), shingles.counts_D)
        self._pending: list[str] = []
        # Of a document that was removed before its sample is all that is left of its text.
        for text, sample in zip(self._texts, self._samples, strict=True):
            if sample["location"] in locations:
                self.look_in(text)

    def look_in(self, text: str) -> None:
        """Find the samples that have words in common with a text."""
        short = text.strip()
        for number, sample in enumerate(self._texts):
            is_in_sample = 0 < len(short) <= _SHORT_CHARACTERS and short in sample
            is_sample_in = 0 < len(sample) <= _SHORT_CHARACTERS and sample in text
            if is_in_sample or is_sample_in:
                self._is_found[number] = True
        self._pending.append(text)
        if len(self._pending) >= _TEXTS_AT_ONCE:
            self._compare()

    def scrub(self) -> int:
        """Take the samples that were found out of the account; return how many they were.

        A family of near duplicates goes whole.
        """
        self._compare()
        found = {id(self._samples[n]) for n, is_found in enumerate(self._is_found) if is_found}
        account = self._account
        account.tally.samples = {
            reason: left
            for reason, samples in account.tally.samples.items()
            if (left := [sample for sample in samples if id(sample) not in found])
        }
        account.near_duplicate_examples = [
            family
            for family in account.near_duplicate_examples
            if not any(id(one) in found for one in _members(family))
        ]
        extremes = account.measures.get("extremes", {})
        for name, shown in extremes.items():
            extremes[name] = [one for one in shown if id(one) not in found]
        return len(found)

    def _compare(self) -> None:
        hashes = np.unique(shingle(self._pending, _NGRAM).hashes_S)
        for owner in np.unique(self._owners_S[np.isin(self._hashes_S, hashes)]).tolist():
            self._is_found[owner] = True
        self._pending = []


def _members(family: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return [family["kept"], *family["removed"]]
