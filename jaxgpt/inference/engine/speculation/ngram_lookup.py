"""`NgramLookup`: what followed the last tokens of a text where the text had them before.

Saxena 2023 ("prompt lookup decoding", github.com/apoorvumang/prompt-lookup-decoding). It needs no
model. Code, quotations, tables and corrections repeat what they were given.
"""

from collections.abc import Sequence

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.inference.engine.drafting import (
    Drafter,
    Draws,
    OpenCheckpoint,
    Speculation,
    Target,
    Text,
)


@configclass
class NgramLookup(Speculation):
    """Tokens that followed the text's last ones where it had them before."""

    longest: int = 4
    """Number of last tokens that are looked up; fewer of them where the text has not all."""
    shortest: int = 2
    """Least number of last tokens that must be found; fewer give more drafts, and worse ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"shortest must be from 1 to longest = {self.longest}, not {self.shortest}"
            )

    def build(self, target: Target, open_checkpoint: OpenCheckpoint) -> Drafter:
        return _Lookup(self)


class _Lookup:
    """Looks up texts; see `Drafter`."""

    def __init__(self, config: NgramLookup) -> None:
        self._config = config
        self.most = config.most

    def draft(self, texts: Sequence[Text], draws: Draws) -> list[list[int]]:
        config = self._config
        return [
            find_continuation(
                text.ids, config.longest, config.shortest, min(config.most, text.room)
            )
            for text in texts
        ]

    def reset(self) -> None:
        pass


def find_continuation(ids: np.ndarray, longest: int, shortest: int, number: int) -> list[int]:
    """Return the tokens after the last earlier place that ends like the text.

    Args:
        ids: of the text.
        longest: most last tokens to compare; a place where more are equal is better.
        shortest: number of them that must be equal, at least 1.
        number: how many tokens to return; what goes beyond the text's end goes on with what was
            found, as a repetition does.

    Returns:
        `number` ids, or none where there is no such place.
    """
    end, matched = len(ids), 0
    # Places behind the compared tokens.
    places = np.arange(1, end)
    while matched < longest and len(inside := places[places > matched]):
        equal = inside[ids[inside - matched - 1] == ids[end - matched - 1]]
        if not len(equal):
            break
        places, matched = equal, matched + 1
    if matched < shortest:
        return []
    start = int(places[-1])
    return ids[start + np.arange(number) % (end - start)].tolist()
