"""An index of the prompts that slots hold, so that shared beginnings are read once.

Another adapter makes other keys and values of the same tokens, so prompts of two adapters share
nothing.

Only whole chunks count. A chunk that was read in one request is bit for bit the chunk that another
would read, because both come from one program with the same inputs; what was drawn, or read in a
shorter last chunk, comes from another program and may differ in the last bit.
"""

from collections.abc import Sequence

import numpy as np


class PrefixIndex:
    """The chunks of prompts that each slot holds.

    Args:
        num_slots: number of slots.
        chunk: tokens of a chunk.
    """

    def __init__(self, num_slots: int, chunk: int) -> None:
        self._chunk = chunk
        self._held = [np.zeros(0, np.int64) for _ in range(num_slots)]
        self._adapters = [0] * num_slots
        self._last_use = [0] * num_slots
        self._clock = 0

    def find(
        self, prompt: Sequence[int], adapter: int, free: Sequence[int]
    ) -> tuple[int, int, int]:
        """Choose a free slot for a prompt, and the slot that has read most of it already.

        Args:
            prompt: its ids; the last is always read again, since its scores are wanted.
            adapter: number of the adapter that reads it.
            free: slots that no request has, at least one.

        Returns:
            the free slot, the source, and how many tokens the source holds. The two are one slot
            if a free one holds as much as any.
        """
        wanted = np.asarray(prompt[:-1])
        lengths = [
            self._match(held, wanted) if number == adapter else 0
            for held, number in zip(self._held, self._adapters, strict=True)
        ]
        best = max(lengths)
        if not best:
            slot = self._oldest(free)
            return slot, slot, 0
        sources = [slot for slot, length in enumerate(lengths) if length == best]
        shared = [slot for slot in sources if slot in free]
        # A free slot with that prompt and no more is taken; one with a longer prompt is spared.
        exact = [slot for slot in shared if len(self._held[slot]) == best]
        if exact:
            return exact[0], exact[0], best
        return self._oldest(free), sources[0], best

    def begin(self, slot: int, prompt: Sequence[int], adapter: int, length: int) -> None:
        """Note that a slot now holds the first `length` tokens of a prompt, and nothing else."""
        self._adapters[slot] = adapter
        self._clock += 1
        self._last_use[slot] = self._clock
        self._held[slot] = np.asarray(prompt[:length], np.int64)

    def add(self, slot: int, tokens: Sequence[int]) -> None:
        """Note that a slot has read one more whole chunk."""
        self._held[slot] = np.concatenate([self._held[slot], np.asarray(tokens, np.int64)])

    def forget(self) -> None:
        """Forget all slots: their contents are lost."""
        self._held = [held[:0] for held in self._held]

    def _oldest(self, free: Sequence[int]) -> int:
        return min(free, key=lambda slot: (len(self._held[slot]) > 0, self._last_use[slot]))

    def _match(self, held: np.ndarray, wanted: np.ndarray) -> int:
        """Return how many tokens of whole chunks are the same."""
        length = min(len(held), len(wanted))
        differ = np.flatnonzero(held[:length] != wanted[:length])
        same = int(differ[0]) if len(differ) else length
        return same - same % self._chunk
