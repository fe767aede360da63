"""Roll a run back to an older checkpoint, from which it goes on with other batches.

The rule that chooses the step is in training/rollback.py and the config's `recovery`.
"""

from dataclasses import replace
from typing import Any

from jaxgpt.distributed.hosts import broadcast_from_first
from jaxgpt.runs.setup import TrainingSetup
from jaxgpt.runs.state import ResumePoint, start_or_restore
from jaxgpt.training.metrics import read_records
from jaxgpt.training.rollback import SkippedBatches, UnstableError


def roll_back(
    setup: TrainingSetup, start: ResumePoint, error: UnstableError
) -> tuple[ResumePoint, dict[str, Any]]:
    """Return an older resume point with other batches after it, and details for the log.

    Args:
        setup: of the run.
        start: from which the run became unstable.
        error: says why and at which step.

    Raises:
        UnstableError: the run has rolled back often enough, or there is no older checkpoint.
    """
    # Waiting for a save and hashing take longer than a step may.
    with setup.goodput.spending("restore"):
        step = _find_step(setup, start, error)
        setup.checkpoints.abandon_after(step)
        # The same parameters on other batches again would be refused again: the level is another.
        is_usual = not (error.is_level and start.is_rolled_back_to and step == start.step)
        again = start_or_restore(setup, step, is_usual)
    skipped_steps = [
        event["step"]
        for event in read_records(setup.run_dir / "events.jsonl")
        if event.get("event") == "skip" and event["step"] > step
    ]
    skipped = SkippedBatches(step, error.step - step)
    details = {
        "back_from": error.step,
        "reason": str(error),
        "batches": [step + start.batch_offset, skipped.num_batches],
        "skipped_steps": skipped_steps,
        "is_learned_again": not is_usual,
    }
    all_skipped = (*start.skipped_batches, skipped)
    return replace(again, skipped_batches=all_skipped, seconds=start.seconds), details


def _find_step(setup: TrainingSetup, start: ResumePoint, error: UnstableError) -> int:
    recovery, checkpoints = setup.config.recovery, setup.checkpoints
    # This also waits for the save under way: to where a run goes back must not depend on its speed.
    checkpoints.latest_verified(before=error.step)
    step = None
    while step is None:  # What is found damaged is no candidate the next time.
        steps = [step for step in checkpoints.steps() if step >= start.changed_at]
        if error.is_level and start.is_rolled_back_to and start.step in steps:
            steps = [start.step]  # As good as those before it, for it has been gone on from once.
        candidate = recovery.rollback_step(steps, error.step, len(start.skipped_batches))
        candidate = broadcast_from_first("the step to go back to", candidate)
        if candidate is None:
            raise error
        step = checkpoints.latest_verified(before=candidate + 1)
    return step
