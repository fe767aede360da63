"""Files and folders that are not read: counts by reason, and one line for each reason."""

import os
from collections import Counter

from jaxgpt.corpus.documents.document import escape_name

# Reasons that are shown with endings and examples; the user asked for the others.
_TITLES = {
    "unknown_kind": "of no known kind",
    "symbolic_link": "behind symbolic links in folders (name them, or give a pattern in quotes)",
    "broken_link": "behind broken symbolic links",
    "not_a_regular_file": "not regular files (pipes, devices or sockets)",
    "unreadable_folder": "folders that were deleted meanwhile",
}
_MAX_ENDINGS = 5


class PassedOver:
    """Counts files and folders that are not read.

    Attributes:
        counts: files and folders by reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._endings: dict[str, Counter[str]] = {reason: Counter() for reason in _TITLES}
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, reason: str, path: str) -> None:
        """Count a file or folder."""
        self.counts[reason] += 1
        if reason in _TITLES:
            ending = os.path.splitext(path)[1].lower() or "no ending"
            self._endings[reason][ending] += 1
            smallest = min(self._examples.get((reason, ending), path), path)
            self._examples[reason, ending] = smallest

    def describe(self) -> tuple[str, ...]:
        """Return a line for each reason, with the most frequent endings and a file of each."""
        return tuple(
            f"{self.counts[reason]:,} {title}: {self._describe_endings(reason)}"
            for reason, title in _TITLES.items()
            if self.counts[reason]
        )

    def _describe_endings(self, reason: str) -> str:
        by_count = sorted(self._endings[reason].items(), key=lambda pair: (-pair[1], pair[0]))
        shown = [
            f"{count:,} {escape_name(ending)} ({escape_name(self._examples[reason, ending])})"
            for ending, count in by_count[:_MAX_ENDINGS]
        ]
        num_more = len(by_count) - _MAX_ENDINGS
        return ", ".join([*shown, f"and {num_more} more endings"] if num_more > 0 else shown)
