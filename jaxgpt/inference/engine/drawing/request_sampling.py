"""`RequestSampling`: how the tokens of one request are drawn."""

import math

from jaxgpt.config import configclass
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frequency_penalty", "presence_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}; allowed: a finite number")
        if self.min_new_tokens < 0:
            raise ValueError(f"min_new_tokens = {self.min_new_tokens}; allowed: at least 0")
