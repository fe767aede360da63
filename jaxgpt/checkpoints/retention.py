"""Choose which saved steps to keep and which is best. Pure functions; they delete nothing.

Evaluation losses say which step is better only if they were measured alike: on the same text, cut
into rows of the same length. Only those measured like the newest one are compared.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxgpt.checkpoints.lineage import differences


class Evaluation(NamedTuple):
    """A held-out loss, and how it was measured; None where an older version did not record it."""

    loss: float
    settings: Mapping[str, Any] | None = None


def read_evaluation(metadata: Mapping[str, Any]) -> Evaluation | None:
    """Return the evaluation that a step's metadata has, if it has one."""
    loss = metadata.get("eval_loss")
    return None if loss is None else Evaluation(loss, metadata.get("eval_settings"))


def comparable_losses(evaluations: Mapping[int, Evaluation | None]) -> dict[int, float]:
    """Return the finite losses, by step, that were measured like the newest one."""
    measured = _measured(evaluations)
    newest = measured[max(measured)].settings if measured else None
    return {step: one.loss for step, one in measured.items() if one.settings == newest}


def evaluated_steps_to_keep(
    evaluations: Mapping[int, Evaluation | None],
    keep_latest: int,
    keep_every_steps: int | None,
    keep_best: int,
) -> set[int]:
    """Return `steps_to_keep` of steps with these evaluations.

    The best step that an older version saved is also kept, although it cannot be compared with
    newer ones: a run that continues in this version must not lose it.
    """
    unrecorded = {
        step: one.loss for step, one in _measured(evaluations).items() if one.settings is None
    }
    losses = comparable_losses(evaluations)
    keep = steps_to_keep(evaluations, losses, keep_latest, keep_every_steps, keep_best)
    return keep | set(rank_by_loss(evaluations, unrecorded)[:keep_best])


def describe_left_out(evaluations: Mapping[int, Evaluation | None]) -> str | None:
    """Describe the evaluated steps that `comparable_losses` leaves out; None for none."""
    measured, compared = _measured(evaluations), comparable_losses(evaluations)
    left_out = [step for step in measured if step not in compared]
    if not left_out:
        return None
    newest, other = measured[max(measured)].settings, measured[max(left_out)].settings
    why = "an older version did not record how they were measured"
    if newest is not None and other is not None:
        why = "; ".join(differences(other, newest))
    return (
        f"steps {', '.join(map(str, sorted(left_out)))} are not compared: their held-out losses "
        f"were measured differently from that of step {max(measured)} ({why})"
    )


def _measured(evaluations: Mapping[int, Evaluation | None]) -> dict[int, Evaluation]:
    return {
        step: one
        for step, one in evaluations.items()
        if one is not None and math.isfinite(one.loss)
    }


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
        keep_latest: number of newest steps to keep.
        keep_every_steps: also keep multiples of this; None keeps none for that reason.
        keep_best: number of steps with the lowest loss to keep; of equal ones, the newer.
    """
    ordered = sorted(steps)
    newest = set(ordered[-keep_latest:]) if keep_latest > 0 else set()
    periodic = {step for step in ordered if keep_every_steps and step % keep_every_steps == 0}
    return newest | periodic | set(rank_by_loss(ordered, losses)[:keep_best])


def rank_by_loss(steps: Iterable[int], losses: Mapping[int, float]) -> list[int]:
    """Return the steps that have a finite loss, best first; of equal ones, the newer first."""
    measured = [step for step in steps if step in losses and math.isfinite(losses[step])]
    return sorted(measured, key=lambda step: (losses[step], -step))
