"""`SpeculatingDecoder`: the engine as a `Decoder`, for commands that continue a few texts."""

import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from jaxgpt.errors import ConfigError
from jaxgpt.inference.decode import Constraint, Decoder, NewTokens
from jaxgpt.inference.engine.drafting import OpenCheckpoint, Speculation
from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.engine import Engine
from jaxgpt.inference.engine.engine_config import EngineConfig
from jaxgpt.inference.engine.request import Progress, Request, pack_mask
from jaxgpt.inference.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class SpeculatingDecoder(Decoder):
    """A decoder that verifies drafted tokens; it draws what a `Decoder` draws, up to rounding.

    Attributes:
        speculation: where the drafted tokens come from.
        open_checkpoint: opens another checkpoint that it names.
    """

    speculation: Speculation
    open_checkpoint: OpenCheckpoint
    # The last one, since the next texts can mostly have its slots.
    _engines: list[Engine] = field(default_factory=list, init=False, repr=False, compare=False)
    # What the ones before it drafted.
    _counts: collections.Counter[str] = field(
        default_factory=collections.Counter, init=False, repr=False, compare=False
    )

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
        try:
            yield from _follow(self._engine(len(requests), max(lengths)), requests)
        except GeneratorExit:
            raise
        except BaseException:
            # A program that did not end, as after Ctrl-C, has taken the slots and given none back.
            self._drop_engine()
            raise

    def account(self) -> dict[str, Any]:
        """Return how many tokens were drafted, and how many of them the model drew itself."""
        counts = self._counts.copy()
        for engine in self._engines:
            counts.update(_count(engine))
        names = "drafted_tokens", "accepted_tokens"
        return {"speculation": {name: counts[name] for name in names}}

    def _engine(self, num_slots: int, max_length: int) -> Engine:
        """Return an engine with room for texts of these lengths."""
        for engine in self._engines:
            if engine.num_slots >= num_slots and engine.max_length >= max_length:
                return engine
        self._drop_engine()
        if max_length <= self.context_length:
            engine = self._build(num_slots, self.context_length)
        else:
            # A conversation that grows has the same slots for many messages.
            try:
                engine = self._build(num_slots, 1 << (max_length - 1).bit_length())
            except ConfigError:
                # A model has fewer positions; perhaps they suffice for this text.
                engine = self._build(num_slots, max_length)
        self._engines.append(engine)
        return engine

    def _build(self, num_slots: int, max_length: int) -> Engine:
        size = EngineConfig(num_slots=num_slots, max_length=max_length, max_waiting=0)
        return Engine(
            self, size, speculation=self.speculation, open_checkpoint=self.open_checkpoint
        )

    def _drop_engine(self) -> None:
        """Free the slots, and keep the counts."""
        while self._engines:
            self._counts.update(_count(self._engines.pop()))


def with_speculation(
    decoder: Decoder, speculation: Speculation | None, open_checkpoint: OpenCheckpoint
) -> Decoder:
    """Return a decoder that verifies drafted tokens, or the same one without `speculation`.

    Args:
        decoder: the model that verifies.
        speculation: where the drafted tokens come from.
        open_checkpoint: opens another checkpoint that it names, and is asked for it again with
            each engine.
    """
    if speculation is None:
        return decoder
    own = {each.name: getattr(decoder, each.name) for each in fields(decoder)}
    return SpeculatingDecoder(**own, speculation=speculation, open_checkpoint=open_checkpoint)


def _follow(engine: Engine, requests: Sequence[Request]) -> Iterator[list[NewTokens]]:
    """Yield what requests gain until all have finished; closing it early ends them.

    After any other exception the engine cannot be used any longer.
    """
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
    except GeneratorExit:
        for ticket in tickets:
            engine.cancel(ticket)
        # Takes what is cancelled out of its slots.
        engine.step()
        raise


def _count(engine: Engine) -> dict[str, int]:
    counts = engine.counts()
    return {"drafted_tokens": counts.drafted_tokens, "accepted_tokens": counts.accepted_tokens}


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
