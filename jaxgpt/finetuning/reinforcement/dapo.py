"""`Dapo`: decoupled clip and dynamic sampling policy optimisation."""

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.finetuning.reinforcement.grpo import Grpo


@configclass
class Dapo(Grpo):
    """Decoupled clip and dynamic sampling: a wider upper clip, no groups without variance, and a
    soft limit of length.

    Rare tokens of good answers may become likelier by more, which keeps the entropy up. A group
    whose answers are all right or all wrong teaches nothing and is left out of the loss and its
    denominator. The last part of the allowed length costs up to 1:

        r_i += clip((max_answer_tokens - margin - |y_i|) / margin, -1, 0)
        margin = overlong_share * max_answer_tokens

    Yu and others 2025 (arXiv:2503.14476), sections 3.1, 3.2 and 3.4. The paper draws further
    groups in place of those left out; here such a step learns from fewer answers.
    """

    clip_high: float = 0.28
    """Distance above 1 that a ratio may have before a good answer is pushed up no further."""
    overlong_share: float = 0.2
    """Share of max_answer_tokens, at its end, in which longer answers earn less; 0: off."""

    def __post_init__(self) -> None:
        Grpo.__post_init__(self)
        if not 0 <= self.overlong_share < 1:
            raise ValueError(f"overlong_share must be in [0, 1), not {self.overlong_share}")

    def shape(self, rewards_B: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        margin = self.overlong_share * self.max_answer_tokens
        if not margin:
            return rewards_B
        return rewards_B + np.clip((self.max_answer_tokens - margin - lengths_B) / margin, -1, 0)

    def learns_from(self, rewards_PG: np.ndarray) -> np.ndarray:
        return np.ptp(rewards_PG, axis=1) > 0
