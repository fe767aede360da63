"""`Gspo`: group sequence policy optimisation.

Axes: B rows, one answer each, T tokens of a row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import configclass
from jaxgpt.finetuning.reinforcement.grpo import Grpo


@configclass
class Gspo(Grpo):
    """Group sequence policy optimisation: one ratio for an answer, all answers alike.

        s_i = exp(mean over t of log rho_it)
        L = -mean over answers of min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)

    A reward belongs to the answer and so does its ratio; those of single tokens are noisy, most of
    all with experts, whose choice changes from step to step. Zheng and others 2025
    (arXiv:2507.18071), equations 5 to 7; the limits are those of section 5.1.
    """

    clip_low: float = 3e-4
    """Distance below 1 that an answer's ratio may have before a bad answer is pushed down no
    further."""
    clip_high: float = 4e-4
    """Distance above 1 that an answer's ratio may have before a good answer is pushed up no
    further."""

    def log_ratios(self, log_ratios_BT: jax.Array, is_answer_BT: jax.Array) -> jax.Array:
        lengths_B1 = jnp.maximum(jnp.sum(is_answer_BT, axis=1, keepdims=True), 1)
        means_B1 = jnp.sum(log_ratios_BT, axis=1, keepdims=True) / lengths_B1
        return jnp.broadcast_to(means_B1, log_ratios_BT.shape)

    def token_shares(self, lengths_B: np.ndarray) -> np.ndarray:
        return 1 / (len(lengths_B) * lengths_B)
