"""Requests to the engine and its answers: token ids, never text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.inference.engine.repeats import LONGEST_MATCH
from jaxgpt.inference.sampling import SamplingConfig

MOST_TOP_TOKENS = 20

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

    Both methods may raise `ConstraintError`.
    """

    def fill(self, allowed_W: np.ndarray) -> bool:
        """Write which ids may be drawn next; return False, and write nothing, if all may.

        Args:
            allowed_W: uint32, bit i % 32 of word i // 32 for id i; see `pack_mask`.
        """
        ...

    def advance(self, token: int) -> bool:
        """Take a drawn token; return whether the text is complete and must end."""
        ...


@configclass
class RequestSampling(SamplingConfig):
    """Sampling of one request's tokens."""

    frequency_penalty: float = 0.0
    """Decrease of a token's score for each time that the answer has it."""
    presence_penalty: float = 0.0
    """Decrease of a token's score if the answer has it."""
    min_new_tokens: int = 0
    """Number of tokens before the first that may end the answer."""
    dry_multiplier: float = 0.0
    """Penalty (DRY) of a token that goes on with a repeated sequence of the allowed length; 0:
    off."""
    dry_base: float = 1.75
    """Factor of that penalty for each further token of the sequence."""
    dry_allowed_length: int = 2
    """Length of a repeated sequence from which on the next token is penalised."""
    dry_last_n: int | None = None
    """Number of newest tokens in which repeated sequences are looked for; None: all."""
    dry_breakers: tuple[int, ...] = ()
    """Ids at which a sequence ends, such as those of line ends."""
    xtc_probability: float = 0.0
    """Probability (XTC) of leaving the likeliest tokens out of a draw; 0: off."""
    xtc_threshold: float = 0.1
    """Least probability of tokens that are left out; the least likely of them stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frequency_penalty", "presence_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}; allowed: a finite number")
        if self.min_new_tokens < 0:
            raise ValueError(f"min_new_tokens = {self.min_new_tokens}; allowed: at least 0")
        for name in ("xtc_probability", "xtc_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}; allowed: from 0 to 1")
        self._check_dry()

    def _check_dry(self) -> None:
        if not 0 <= self.dry_multiplier < math.inf:
            raise ValueError(f"dry_multiplier = {self.dry_multiplier}; allowed: 0 (off) or more")
        if not 1 <= self.dry_base < math.inf:
            raise ValueError(f"dry_base = {self.dry_base}; allowed: a finite number from 1")
        if not 0 <= self.dry_allowed_length <= LONGEST_MATCH:
            raise ValueError(
                f"dry_allowed_length = {self.dry_allowed_length}; allowed: from 0 to "
                f"{LONGEST_MATCH}"
            )
        if self.dry_last_n is not None and self.dry_last_n < 1:
            raise ValueError(
                f"dry_last_n = {self.dry_last_n}; allowed: None (all tokens) or at least 1"
            )


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
    """

    tokens: tuple[TokenScore, ...] = ()
    finish: Finish | None = None
    error: JaxgptError | None = None
    prompt: tuple[TokenScore, ...] = ()
    num_reused: int = 0
    end: TokenScore | None = None


def pack_mask(allowed_V: np.ndarray) -> np.ndarray:
    """Return a bool [V] as uint32 words, id i in bit i % 32 of word i // 32."""
    bits = np.packbits(allowed_V, bitorder="little")
    return np.pad(bits, (0, -len(bits) % 4)).view("<u4")
