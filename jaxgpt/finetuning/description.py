"""`ExamplesDescription`: what was read, as numbers and as sentences."""

from dataclasses import dataclass
from typing import Any

from jaxgpt.reports.console import format_count

_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class ExamplesDescription:
    """Facts of examples that were read.

    Attributes:
        noun: what an example is, such as "conversation".
        forms: (file, form, rows, fields that are not used) of each file.
        num_training, num_held_out: examples on both sides.
        num_turns: questions of all examples, where these are conversations.
        num_tokens, num_targets: ids, and ids that are predicted.
        label_counts: examples of each class, or parts of theirs.
        max_length: ids that a sequence may have.
        num_cut: examples whose prompt lost its beginning.
        num_long_answers: examples whose answer lost its end.
        num_dropped: examples left out as too long.
        bad: bad rows by reason.
        bad_rows: (place, what is wrong) of the first bad rows.
        num_copies: exact copies that were left out; `copies` names some, (copy, first).
        num_near_copies, num_near_groups: examples like an earlier one, and groups of such.
        num_near_held_out: held-out examples with a near copy in training.
        near_copies: (one, other, similarity) of some.
        evaluation_copies: examples that share text with each evaluation file.
    """

    noun: str
    forms: tuple[tuple[str, str, int, tuple[str, ...]], ...]
    num_training: int
    num_held_out: int
    num_turns: int
    num_tokens: int
    num_targets: int
    label_counts: dict[str, int]
    max_length: int
    num_cut: int
    num_long_answers: int
    num_dropped: int
    bad: dict[str, int]
    bad_rows: tuple[tuple[str, str], ...]
    num_copies: int
    copies: tuple[tuple[str, str], ...]
    num_near_copies: int
    num_near_groups: int
    num_near_held_out: int
    near_copies: tuple[tuple[str, str, float], ...]
    evaluation_copies: dict[str, int]

    @property
    def num_examples(self) -> int:
        """Return the examples of both sides."""
        return self.num_training + self.num_held_out

    def lines(self) -> list[str]:
        """Return sentences for people; facts that are zero are left out."""
        return [self._summary(), *self._of_files(), *self._of_cuts(), *self._of_copies()]

    def _summary(self) -> str:
        facts = [format_count(self.num_examples, self.noun)]
        num = max(self.num_examples, 1)
        if self.num_turns:
            facts.append(f"{self.num_turns / num:.1f} turns")
        if self.num_targets:
            facts.append(f"{self.num_targets / num:,.0f} target tokens on average")
        else:
            facts.append(f"{self.num_tokens / num:,.0f} tokens on average")
        facts.append(f"{self.num_held_out:,} held out")
        if self.label_counts:
            named = list(self.label_counts.items())
            labels = ", ".join(f"{name} {count:,}" for name, count in named[:10])
            more = f" and {len(named) - 10:,} more labels" if len(named) > 10 else ""
            facts.append(f"labels {labels}{more}")
        return ", ".join(facts)

    def _of_files(self) -> list[str]:
        lines = []
        for name, form, num_rows, unused in self.forms:
            rest = f"; not used: {', '.join(unused)}" if unused else ""
            lines.append(f"{name}: {format_count(num_rows, 'row')}, read as {form}{rest}")
        if self.bad:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.bad.items())
            named = "; ".join(f"{place}: {detail}" for place, detail in self.bad_rows[:_NUM_NAMED])
            lines.append(f"bad rows left out: {reasons}; first {named}")
        return lines

    def _of_cuts(self) -> list[str]:
        longer = f"longer than the context of {self.max_length:,} tokens"
        lines = []
        if self.num_cut:
            lines.append(f"{self.num_cut:,} {longer}: prompt cut on the left")
        if self.num_long_answers:
            lines.append(
                f"{self.num_long_answers:,} with too long an answer or text: cut at its end"
            )
        if self.num_dropped:
            lines.append(f"{self.num_dropped:,} dropped as {longer}")
        return lines

    def _of_copies(self) -> list[str]:
        lines = []
        if self.num_copies:
            named = "; ".join(f"{copy} is {first}" for copy, first in self.copies[:_NUM_NAMED])
            lines.append(f"exact copies left out: {self.num_copies:,} ({named})")
        if self.num_near_copies:
            one, other, similarity = self.near_copies[0]
            lines.append(
                f"near copies, kept: {self.num_near_copies:,} in "
                f"{format_count(self.num_near_groups, 'group')} (such as {other} and {one}, "
                f"similarity {similarity:.2f}); held out with one in training: "
                f"{self.num_near_held_out:,}"
            )
        for name, count in self.evaluation_copies.items():
            lines.append(f"share 13 words in a row with {name}: {format_count(count, self.noun)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a run's records."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
