"""Signs that a model learns its text by heart, and what to do about it.

A model that has read its text often goes on to lower its training loss by remembering it, while the
loss on held-out text rises. The step with the lowest held-out loss is then the better model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# How far above its lowest value a held-out loss has risen, rather than wavered.
RISE = 1.01
# Below this, a held-out loss says little: its standard error is some 0.02 nats per token.
FEW_TOKENS = 10_000
# Text read more often than this teaches little more (Muennighoff et al. 2023, arXiv:2305.16264).
MANY_EPOCHS = 16

ADVICE = "Train on more text, for fewer steps, or a smaller model"


class Rise(NamedTuple):
    """A held-out loss that has left its lowest value.

    Attributes:
        best_step, best_loss: the lowest one.
        step, loss: the newest one.
    """

    best_step: int
    best_loss: float
    step: int
    loss: float

    def describe(self) -> str:
        """Return one sentence with both losses."""
        return (
            f"the held-out loss rises: {self.loss:.4f} at step {self.step:,}, "
            f"{self.best_loss:.4f} at step {self.best_step:,}"
        )


def find_rise(evaluations: Sequence[Mapping[str, Any]]) -> Rise | None:
    """Return how the held-out loss has risen, or None if its newest value is near the lowest.

    Args:
        evaluations: {"step", "loss", ...} of each evaluation, in order; losses that are None count
            for nothing.
    """
    measured = [
        (float(r["loss"]), int(r["step"])) for r in evaluations if r.get("loss") is not None
    ]
    if not measured:
        return None
    best_loss, best_step = min(measured)
    loss, step = measured[-1]
    if not loss > RISE * best_loss:
        return None
    return Rise(best_step, best_loss, step, loss)


def count_epochs(num_tokens: int, tokens_per_epoch: int) -> float:
    """Return how often a text of `tokens_per_epoch` was read in `num_tokens`."""
    return num_tokens / max(tokens_per_epoch, 1)
