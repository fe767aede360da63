"""`SpeculatingDecoder`: the engine as a `Decoder`, for commands that continue a few texts."""

import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxgpt.inference.decode import Constraint, Decoder, NewTokens
from jaxgpt.inference.engine.drafting import OpenCheckpoint, Speculation
from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.engine import Engine
from jaxgpt.inference.engine.engine_config import EngineConfig
from jaxgpt.inference.engine.request import Progress, Request, pack_mask
from jaxgpt.inference.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class SpeculatingDecoder(Decoder):
    """A decoder that verifies drafted tokens; what it draws is what a `Decoder` draws.

    Attributes:
        speculation: where the drafted tokens come from.
        open_checkpoint: opens another checkpoint that it names.
    """

    speculation: Speculation
    open_checkpoint: OpenCheckpoint
    # The last one, since the next texts can mostly have its slots.
    _engines: list[Engine] = field(default_factory=list, init=False, repr=False, compare=False)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        sampling: SamplingConfig,
        seed: int = 0,
        rows: Sequence[int] | None = None,
        constraint: Constraint | None = None,
        breakers: Sequence[int] = (),
    ) -> Iterator[list[NewTokens]]:
        """Yield what the rows gain, visit by visit; arguments and errors as for `Decoder`.

        Raises:
            JaxgptError: a checkpoint that drafts cannot be opened.
        """
        limits = np.broadcast_to(max_new_tokens, len(prompts)).tolist()
        requests = [
            Request(
                prompt=tuple(map(int, prompt)),
                max_new_tokens=limit,
                sampling=RequestSampling(**dataclasses.asdict(sampling)),
                seed=seed,
                row=place if rows is None else rows[place],
                breakers=tuple(breakers),
                constraint=constraint and _RowConstraint(constraint, place),
            )
            for place, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
        ]
        lengths = [len(each.prompt) + each.max_new_tokens - 1 for each in requests]
        yield from _follow(self._engine(len(requests), max(lengths)), requests)

    def account(self) -> dict[str, Any]:
        """Return how many tokens were drafted, and how many of them the model drew itself."""
        counts = [engine.counts() for engine in self._engines]
        drafted = sum(each.drafted_tokens for each in counts)
        accepted = sum(each.accepted_tokens for each in counts)
        return {"speculation": {"drafted_tokens": drafted, "accepted_tokens": accepted}}

    def _engine(self, num_slots: int, max_length: int) -> Engine:
        """Return an engine with room for texts of these lengths."""
        for engine in self._engines:
            if engine.num_slots >= num_slots and engine.max_length >= max_length:
                return engine
        self._engines.clear()
        size = EngineConfig(
            num_slots=num_slots,
            max_length=max(max_length, self.context_length),
            max_waiting=0,
        )
        engine = Engine(
            self, size, speculation=self.speculation, open_checkpoint=self.open_checkpoint
        )
        self._engines.append(engine)
        return engine


def with_speculation(
    decoder: Decoder, speculation: Speculation | None, open_checkpoint: OpenCheckpoint
) -> Decoder:
    """Return a decoder that verifies drafted tokens, or the same one without `speculation`."""
    if speculation is None:
        return decoder
    own = {each.name: getattr(decoder, each.name) for each in fields(decoder)}
    return SpeculatingDecoder(**own, speculation=speculation, open_checkpoint=open_checkpoint)


def _follow(engine: Engine, requests: Sequence[Request]) -> Iterator[list[NewTokens]]:
    """Yield what requests gain until all have finished; leaving early ends them."""
    gained: collections.deque[tuple[int, Progress]] = collections.deque()
    tickets = []
    try:
        for row, request in enumerate(requests):
            tickets.append(
                engine.submit(request, lambda progress, row=row: gained.append((row, progress)))
            )
        left = len(requests)
        while left:
            engine.step()
            news = []
            while gained:
                row, progress = gained.popleft()
                if progress.error is not None:
                    raise progress.error
                finish = progress.finish
                assert finish in ("stop", "length", None), "nobody else ends a request"
                news.append(NewTokens(row, [token.id for token in progress.tokens], finish))
                left -= finish is not None
            yield news
    finally:
        for ticket in tickets:
            engine.cancel(ticket)
        # Takes what is cancelled out of its slots.
        engine.step()


class _RowConstraint:
    """The constraint of a decoder for one of its rows; see `TokenConstraint`."""

    def __init__(self, constraint: Constraint, row: int) -> None:
        self._constraint = constraint
        self._row = row
        self._ids: list[int] = []
        self._binds = True

    def fill(self, allowed_W: np.ndarray) -> bool:
        """Write which ids may be drawn next, unless all may."""
        allowed_V = self._constraint(self._row, self._ids)
        self._binds = allowed_V is not None
        if allowed_V is None:
            return False
        words = pack_mask(allowed_V)
        allowed_W[:] = 0
        allowed_W[: len(words)] = words
        return True

    def horizon(self) -> int:
        """Return 1 as long as it binds: once it does not, it never does again."""
        return 1 if self._binds else sys.maxsize

    def advance(self, token: int) -> bool:
        """Take a drawn token; the end is drawn too."""
        self._ids.append(token)
        return False
