"""Requests to the engine and its answers: token ids, never text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.inference.engine.drawing.request_sampling import MOST_TOP_TOKENS, RequestSampling

Finish = Literal["stop", "length", "cancelled", "error"]


class QueueFullError(JaxgptError):
    """As many requests wait as may; the client should try again later."""


class ClosedError(JaxgptError):
    """The engine has stopped, and takes no request."""


class RequestError(UsageError):
    """A request that this model can never answer, such as a prompt beyond its context."""


class ConstraintError(JaxgptError):
    """A constraint that cannot go on; it ends its own request, and no other."""


class TokenConstraint(Protocol):
    """Narrows what a request may draw next, token by token: a grammar, or text that must come.

    Its methods may raise `ConstraintError`.
    """

    def fill(self, allowed_W: np.ndarray) -> bool:
        """Write which ids may be drawn next; return False, and write nothing, if all may.

        Args:
            allowed_W: uint32, bit i % 32 of word i // 32 for id i; see `pack_mask`.
        """
        ...

    def horizon(self) -> int:
        """Return how many tokens may be drawn until `fill` is asked again, where it is False."""
        ...

    def advance(self, token: int) -> bool:
        """Take a drawn token; return whether the text is complete and must end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, and how to continue it.

    Attributes:
        prompt: ids, at least one.
        max_new_tokens: most tokens to draw; 0 only reads the prompt, for its scores.
        sampling: how they are drawn.
        seed: of the draws: with the same seed, prompt and sampling the answer is the same, bit for
            bit, whatever else the engine does.
        row: number of this answer among those to one prompt with one seed.
        breakers: ids at which a sequence ends for DRY: those of the texts that `sampling` names,
            in the words of the model's tokenizer.
        bias: added to the scores of these ids before anything else; -inf forbids an id.
        ignore_stop: draw no token that ends the answer.
        top_tokens: likeliest ids to report with each drawn one, up to 20.
        score_prompt: report the prompt's own tokens too.
        constraint: narrows what may be drawn; used by this request alone.
        adapter: number of the adapter that answers; 0 for the model alone.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: RequestSampling = field(default_factory=RequestSampling)
    seed: int = 0
    row: int = 0
    breakers: tuple[int, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    ignore_stop: bool = False
    top_tokens: int = 0
    score_prompt: bool = False
    constraint: TokenConstraint | None = None
    adapter: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise RequestError("the prompt has no token; give at least one")
        if self.max_new_tokens < 0:
            raise RequestError(f"max_new_tokens = {self.max_new_tokens}; allowed: at least 0")
        if not self.max_new_tokens and not self.score_prompt:
            raise RequestError("no token is to be drawn and no score is asked for")
        if not 0 <= self.top_tokens <= MOST_TOP_TOKENS:
            raise RequestError(
                f"top_tokens = {self.top_tokens}; allowed: from 0 to {MOST_TOP_TOKENS}"
            )


class RequestLimits(NamedTuple):
    """Ids, adapters and lengths that an engine has room for.

    Attributes:
        vocab_size: number of ids.
        largest_adapter: largest number of an adapter.
        max_length: most tokens of a prompt and its answer.
    """

    vocab_size: int
    largest_adapter: int
    max_length: int

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be answered.

        Raises:
            RequestError: more tokens than a slot has, or an id or adapter that is not there.
        """
        given = {
            "the prompt": request.prompt,
            "bias": request.bias,
            "breakers": request.breakers,
        }
        for name, ids in given.items():
            wrong = [token for token in ids if not 0 <= token < self.vocab_size]
            if wrong:
                raise RequestError(
                    f"{name} has the id {wrong[0]}; the model has ids from 0 to "
                    f"{self.vocab_size - 1}"
                )
        if not 0 <= request.adapter <= self.largest_adapter:
            raise RequestError(
                f"adapter = {request.adapter}; the engine has those up to {self.largest_adapter}, "
                "and 0 is the model alone"
            )
        # The last token that is drawn is never read.
        if len(request.prompt) + max(request.max_new_tokens - 1, 0) > self.max_length:
            raise RequestError(
                f"the prompt has {len(request.prompt)} tokens and {request.max_new_tokens} are to "
                f"be drawn; the model's context holds {self.max_length}"
            )


class TokenScore(NamedTuple):
    """A token with the model's own score, before any sampling setting.

    Attributes:
        id: the token.
        log_probability: natural logarithm; NaN for the first token of a prompt, which nothing
            predicts.
        top: the likeliest ids at its place with theirs, likeliest first.
    """

    id: int
    log_probability: float
    top: tuple[tuple[int, float], ...] = ()


class Progress(NamedTuple):
    """New tokens of a request, or its end.

    Attributes:
        tokens: new tokens; the one that ended the answer is left out.
        finish: "stop" if the model or the constraint ended it, "length" if it has all its tokens,
            "cancelled", "error"; None while it goes on.
        error: why it failed.
        prompt: the prompt's tokens, once, if their scores were asked for.
        num_reused: tokens of the prompt that were not read again; told with the first token.
        end: the token that ended the answer, if the model drew one.
        num_drafted: tokens that were drafted, since the last news.
        num_accepted: those of them that the model drew itself.
    """

    tokens: tuple[TokenScore, ...] = ()
    finish: Finish | None = None
    error: JaxgptError | None = None
    prompt: tuple[TokenScore, ...] = ()
    num_reused: int = 0
    end: TokenScore | None = None
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def num_kept(self) -> int:
        """Return how many drawn tokens belong to the answer, the one that ended it included."""
        return len(self.tokens) + (self.end is not None)


def pack_mask(allowed_V: np.ndarray) -> np.ndarray:
    """Return a bool [V] as uint32 words, id i in bit i % 32 of word i // 32."""
    bits = np.packbits(allowed_V, bitorder="little")
    return np.pad(bits, (0, -len(bits) % 4)).view("<u4")
