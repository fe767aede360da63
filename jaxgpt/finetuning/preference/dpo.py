"""`Dpo`: direct preference optimisation."""

import jax

from jaxgpt.config import configclass
from jaxgpt.finetuning.preference.answers import Answers
from jaxgpt.finetuning.preference.pairs import PairObjective


@configclass
class Dpo(PairObjective):
    """Direct preference optimisation: a classifier of pairs, whose reward is beta h(y).

        d = beta (h(y_w) - h(y_l))
        L = -(1 - e) log s(d) - e log s(-d)        s(x) = 1 / (1 + exp(-x))

    With e = 0 the loss of Rafailov and others 2023 (arXiv:2305.18290), equation 7; with
    `per_token` the length-normalised one of Tulu 3 (Lambert and others 2024, arXiv:2411.15124).
    """

    beta: float = 0.1
    """Factor of the reward; the larger, the closer the policy stays to its reference."""
    label_smoothing: float = 0.0
    """Share e of the pairs whose labels are taken for wrong, at most 1/2: conservative DPO
    (Mitchell 2023, "A note on DPO with noisy preferences")."""
    per_token: bool = False
    """Log-ratios that are means over an answer's tokens; otherwise sums, with which a policy can
    prefer longer answers by making all tokens likelier. Means need a larger beta, such as 5."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, not {self.beta}")
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5], not {self.label_smoothing}")

    def losses(self, chosen: Answers, rejected: Answers) -> jax.Array:
        difference = self.rewards(chosen) - self.rewards(rejected)
        right, wrong = jax.nn.log_sigmoid(difference), jax.nn.log_sigmoid(-difference)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong

    def rewards(self, answers: Answers) -> jax.Array:
        return self.beta * (answers.per_token() if self.per_token else answers).log_ratios
