"""Rollbacks: the step to return to, and the batches to skip after it.

A run that goes back to step S at step K must not read the same batches again: from the same state
they would lead to the same place. So step S + 1 reads the batch after the last one read, and all
later steps follow from there: batch index = steps done + batches skipped. The number of skipped
batches is recorded in every checkpoint after the rollback, so the sequence of batches stays a pure
function of what a checkpoint holds (as for PaLM, arXiv:2204.02311, section 5.1).
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxgpt.errors import DivergedError


class SkippedBatches(NamedTuple):
    """Number of batches that were skipped after `step` steps."""

    step: int
    num_batches: int


class UnstableError(DivergedError):
    """The run cannot continue from here, but perhaps from an older checkpoint.

    Attributes:
        step: steps done when it was noticed.
        is_level: as many updates as may be refused in a row were all that there were since the
            start, each with a finite loss and gradient, and the one before the start was accepted:
            the parameters are those of the start, and it is the losses of the text that differ.
    """

    def __init__(self, step: int, reason: str, is_level: bool = False) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step = step
        self.is_level = is_level


def rollback_step(steps: Sequence[int], now: int, rewind_steps: int) -> int | None:
    """Return the step to roll back to: the newest at least `rewind_steps` ago, or the oldest.

    Args:
        steps: those that can be restored.
        now: steps done.
        rewind_steps: fewest steps to roll back.

    Returns:
        One of `steps` before `now`; None if there is none.
    """
    before = sorted(step for step in steps if step < now)
    far = [step for step in before if step <= now - rewind_steps]
    return (far or before[:1] or [None])[-1]
