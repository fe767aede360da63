"""`RequestSampling`: how the tokens of one request are drawn."""

import math

from jaxgpt.config import configclass
from jaxgpt.inference.engine.drawing.repeats import LONGEST_MATCH
from jaxgpt.inference.sampling import SamplingConfig

MOST_TOP_TOKENS = 20


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
