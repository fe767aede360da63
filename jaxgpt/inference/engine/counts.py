"""Counts of what an engine has done, for operators."""

import collections
from dataclasses import dataclass

from jaxgpt.inference.engine.request import Progress


@dataclass(frozen=True)
class EngineCounts:
    """Counts of the engine's work.

    Attributes:
        running: requests that have a slot.
        waiting: requests that wait for one.
        finished: requests that have ended, by how.
        prompt_tokens: tokens of the prompts of all requests that got a slot.
        reused_tokens: those that were not read again.
        drawn_tokens: tokens that were delivered.
        drafts: times that tokens were drafted for a request.
        drafted_tokens: tokens that were drafted.
        accepted_tokens: those of them that the model drew itself.
        cache_share: share of the cache's slots for tokens that hold one.
    """

    running: int
    waiting: int
    finished: dict[str, int]
    prompt_tokens: int
    reused_tokens: int
    drawn_tokens: int
    drafts: int
    drafted_tokens: int
    accepted_tokens: int
    cache_share: float


class Tally:
    """Sums over the life of an engine; its caller sees to threads."""

    def __init__(self) -> None:
        self._finished: collections.Counter[str] = collections.Counter()
        self._tokens: collections.Counter[str] = collections.Counter()

    def finish(self, how: str, number: int = 1) -> None:
        """Count requests that have ended."""
        self._finished[how] += number

    def read(self, prompt: int, reused: int) -> None:
        """Count the tokens of a prompt, and those of them that a slot held already."""
        self._tokens.update(prompt=prompt, reused=reused)

    def add(self, progress: Progress) -> None:
        """Count what a request has gained."""
        self._tokens.update(
            drawn=len(progress.tokens),
            drafts=progress.num_drafted > 0,
            drafted=progress.num_drafted,
            accepted=progress.num_accepted,
        )

    def counts(self, running: int, waiting: int, cache_share: float) -> EngineCounts:
        """Return all counts, with what an engine does at the moment."""
        return EngineCounts(
            running=running,
            waiting=waiting,
            finished=dict(self._finished),
            prompt_tokens=self._tokens["prompt"],
            reused_tokens=self._tokens["reused"],
            drawn_tokens=self._tokens["drawn"],
            drafts=self._tokens["drafts"],
            drafted_tokens=self._tokens["drafted"],
            accepted_tokens=self._tokens["accepted"],
            cache_share=cache_share,
        )
