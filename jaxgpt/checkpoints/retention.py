"""Which of the saved steps to keep. A pure function of numbers; it deletes nothing."""

import math
from collections.abc import Iterable, Mapping


def steps_to_keep(
    steps: Iterable[int],
    losses: Mapping[int, float],
    keep_latest: int,
    keep_every_steps: int | None,
    keep_best: int,
) -> set[int]:
    """Return the union of the newest, the periodic and the best steps.

    Args:
        steps: all complete steps.
        losses: evaluation loss by step; steps without one, or with one that is not finite, are
            never among the best.
        keep_latest: how many of the newest to keep.
        keep_every_steps: also keep multiples of this; None keeps none for that reason.
        keep_best: how many of those with the lowest loss to keep; of equal ones, the newer.
    """
    ordered = sorted(steps)
    newest = set(ordered[-keep_latest:]) if keep_latest > 0 else set()
    periodic = {step for step in ordered if keep_every_steps and step % keep_every_steps == 0}
    return newest | periodic | set(rank_by_loss(ordered, losses)[:keep_best])


def rank_by_loss(steps: Iterable[int], losses: Mapping[int, float]) -> list[int]:
    """Return the steps that have a finite loss, best first; of equal ones, the newer first."""
    measured = [step for step in steps if step in losses and math.isfinite(losses[step])]
    return sorted(measured, key=lambda step: (losses[step], -step))
