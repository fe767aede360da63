"""Signs that a model learns its text by heart, and advice.

A model that reads its text over and over goes on to lower its training loss by remembering it,
while the loss on held-out text rises. The step with the lowest held-out loss is the better model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxgpt.training.metrics import comparable_evaluations

# A held-out loss this far above its lowest value has risen rather than wavered.
_RISE = 1.01
# The loss of fewer held-out tokens depends much on which documents were drawn.
FEW_TOKENS = 10_000
# Reading text again is worth ever less, and nearly nothing from about here on (Muennighoff et al.,
# 2023, arXiv:2305.16264).
MANY_EPOCHS = 16

ADVICE = "train on more text, for fewer steps, or a smaller model"


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
        """Return both losses and advice, without a period at the end."""
        if not self.best_step:
            return (
                f"the held-out loss has risen from {self.best_loss:.4f} before step 1 to "
                f"{self.loss:.4f} at step {self.step:,}: the model was better before; lower "
                "schedule.peak_learning_rate, or give more data"
            )
        return (
            f"the held-out loss has risen from {self.best_loss:.4f} at step {self.best_step:,} to "
            f"{self.loss:.4f} at step {self.step:,}: the model learns its text by heart. "
            f"--step best of eval and generate takes step {self.best_step:,} if that one is saved; "
            f"to do better, {ADVICE}"
        )


def find_rise(evaluations: Sequence[Mapping[str, Any]]) -> Rise | None:
    """Return the rise of the held-out loss, or None if its newest value is near the lowest.

    Args:
        evaluations: of `read_evaluations`. Only those measured as the newest one are compared.
    """
    compared = comparable_evaluations(evaluations)
    alike = [(float(one["loss"]), int(one["step"])) for one in compared]
    if not alike:
        return None
    best_loss, best_step = min(alike)
    loss, step = alike[-1]
    return Rise(best_step, best_loss, step, loss) if loss > _RISE * best_loss else None


def warn_of_text(num_epochs: float, num_held_out_tokens: int) -> list[str]:
    """Return warnings if a run has little text for its steps, or for its evaluation."""
    warnings = []
    if num_epochs > MANY_EPOCHS:
        warnings.append(
            f"the steps of this run read its text {num_epochs:.0f} times; from about {MANY_EPOCHS} "
            f"times on a model learns little but the text by heart: {ADVICE}"
        )
    if num_held_out_tokens < FEW_TOKENS:
        warnings.append(
            f"the validation split has {num_held_out_tokens:,} tokens; under some {FEW_TOKENS:,} "
            "its loss depends much on which documents it holds: build the dataset with more text, "
            "or a larger split.val_fraction"
        )
    return warnings
