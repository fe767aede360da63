"""Examples before a question: other items of the file with their answers."""

import random
from collections.abc import Iterator, Sequence

from jaxgpt.config import configclass
from jaxgpt.errors import UsageError
from jaxgpt.evaluation.tasks.task import Item


@configclass
class Shots:
    """Examples that are shown before each question."""

    num_shots: int = 0
    """Number of examples from the same file before each question."""
    shots_seed: int | None = None
    """Random seed that draws the examples for each question; None: the first ones of the file."""

    def __post_init__(self) -> None:
        if self.num_shots < 0:
            raise ValueError(f"num_shots={self.num_shots} must be at least 0")

    def prefix(self, items: Sequence[Item], index: int, separator: str) -> str:
        """Return the text before the question `items[index]`: examples, each with a separator.

        No example is equal to the question.

        Raises:
            UsageError: the file has too few other items.
        """
        if not self.num_shots:
            return ""
        examples: list[str] = []
        for other in self._order(len(items), index):
            if items[other].example != items[index].example:
                examples.append(items[other].example + separator)
            if len(examples) == self.num_shots:
                return "".join(examples)
        raise UsageError(
            f"--num-shots {self.num_shots} needs that many other items; the file has "
            f"{len(examples)}"
        )

    def _order(self, num_items: int, index: int) -> Iterator[int]:
        if self.shots_seed is None:
            yield from range(num_items)
            return
        # Its own draw for each question: neither --limit nor the order of scoring changes it.
        rng = random.Random(f"{self.shots_seed} {index}")
        few = rng.sample(range(num_items), min(num_items, self.num_shots + 1))
        yield from few
        # Copies of the question may be among them.
        taken = set(few)
        rest = [other for other in range(num_items) if other not in taken]
        rng.shuffle(rest)
        yield from rest
