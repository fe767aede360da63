"""A request on its way: what it has read and drawn, and where its answer ends."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from jaxgpt.errors import DivergedError, JaxgptError
from jaxgpt.inference.engine.drawing.row_sampling import NOT_FINITE, NOTHING_ALLOWED, Drawn
from jaxgpt.inference.engine.request import (
    Finish,
    Progress,
    Request,
    RequestError,
    TokenScore,
)


def not_finite() -> DivergedError:
    """Return the error of a model whose scores are no numbers."""
    return DivergedError(
        "the model's scores are not finite: its parameters are damaged or training diverged; try "
        "an earlier --step"
    )


@dataclasses.dataclass(eq=False)
class Ticket:
    """A request that the engine has taken.

    Attributes:
        request: what was asked.
        deliver: called in the engine's thread with what the request gains; must not block.
        cancelled: whether nobody waits for it any longer.
    """

    request: Request
    deliver: Callable[[Progress], None]
    cancelled: bool = False


@dataclasses.dataclass(eq=False)
class Running:
    """A request in its slot.

    Attributes:
        ticket: the request with the one who waits for it.
        slot: its number.
        num_read: tokens of the prompt that the slot holds.
        num_reused: those that another request had read.
        drawn: ids of the answer.
        prompt_scores: of the prompt's tokens, if they are asked for.
    """

    ticket: Ticket
    slot: int
    num_read: int
    num_reused: int
    drawn: list[int] = dataclasses.field(default_factory=list)
    prompt_scores: list[TokenScore] = dataclasses.field(default_factory=list)
    _told: bool = False

    @property
    def request(self) -> Request:
        """Return what was asked."""
        return self.ticket.request

    @property
    def reads(self) -> bool:
        """Return whether some of the prompt is still to be read."""
        return self.num_read < len(self.request.prompt)

    @property
    def left(self) -> int:
        """Return how many tokens may still be drawn."""
        return self.request.max_new_tokens - len(self.drawn)

    def ids(self) -> np.ndarray:
        """Return the ids of the prompt and of what was drawn, int64."""
        return np.array([*self.request.prompt, *self.drawn])

    def next_chunk(self, size: int) -> tuple[int, ...]:
        """Return the next tokens of the prompt, up to `size`."""
        return self.request.prompt[self.num_read : self.num_read + size]

    @property
    def room(self) -> int:
        """Return how many tokens may be drawn until something must be looked at."""
        left = self.left
        constraint = self.request.constraint
        return left if constraint is None else min(left, constraint.horizon())

    def cut(self, drawn: Iterable[TokenScore], stop_ids: frozenset[int]) -> Progress:
        """Return what is gained by drawn tokens, up to the one that ends the answer."""
        tokens: list[TokenScore] = []
        constraint = self.request.constraint
        for score in drawn:
            if score.id == NOTHING_ALLOWED:
                error = RequestError(
                    "no token may be drawn: biases, constraint and forbidden ids leave none"
                )
                return self.progress(tokens, "error", error)
            if score.id == NOT_FINITE:
                return self.progress(tokens, "error", not_finite())
            if score.id in stop_ids:
                return self.progress(tokens, "stop")._replace(end=score)
            tokens.append(score)
            self.drawn.append(score.id)
            if constraint is not None and constraint.advance(score.id):
                return self.progress(tokens, "stop")
            if not self.left:
                return self.progress(tokens, "length")
        return self.progress(tokens, None)

    def progress(
        self,
        tokens: Iterable[TokenScore] = (),
        finish: Finish | None = None,
        error: JaxgptError | None = None,
    ) -> Progress:
        """Return news of the request; the first have what is known of the prompt."""
        prompt = () if self._told else tuple(self.prompt_scores)
        num_reused = 0 if self._told else self.num_reused
        self._told = True
        return Progress(tuple(tokens), finish, error, prompt, num_reused)


def token_scores(drawn: Drawn, places: Iterable[int], num_top: int) -> list[TokenScore]:
    """Return drawn tokens on the host as plain values."""
    found = []
    for place in places:
        ids_K = drawn.top_ids_BK[place, :num_top].tolist()
        scores_K = drawn.top_log_probabilities_BK[place, :num_top].tolist()
        score = float(drawn.log_probabilities_B[place])
        top = tuple(zip(ids_K, scores_K, strict=True))
        found.append(TokenScore(int(drawn.tokens_B[place]), score, top))
    return found
