"""`DrGrpo`: GRPO without its two biases."""

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.finetuning.reinforcement.grpo import Grpo, deviations


@configclass
class DrGrpo(Grpo):
    """GRPO done right: sums over tokens are divided by a constant, and advantages by nothing.

        A_i = r_i - mean(r)
        L = sum of l_it / (number of answers * max_answer_tokens)

    A division by an answer's length favours short right answers and long wrong ones; one by the
    standard deviation favours prompts that are nearly always or nearly never solved. Liu and others
    2025 (arXiv:2503.20783), section 3.
    """

    def advantages(self, rewards_PG: np.ndarray) -> np.ndarray:
        return deviations(rewards_PG)

    def token_shares(self, lengths_B: np.ndarray) -> np.ndarray:
        return np.full(len(lengths_B), 1 / (len(lengths_B) * self.max_answer_tokens))
