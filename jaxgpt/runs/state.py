"""Make the state of a run, or read it from a checkpoint; save it as one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxgpt.checkpoints.lineage import differences, objective
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.names.type_tags import with_current_tags
from jaxgpt.runs.setup import Lineages, TrainingSetup
from jaxgpt.training.metrics import MetricsLog
from jaxgpt.training.rollback import SkippedBatches
from jaxgpt.training.state import TrainState, init_state

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """A step at which a run starts or resumes.

    Attributes:
        state: at that moment.
        step: steps done.
        seconds: already spent on it.
        skipped_batches: batches that rollbacks have skipped until there; see training/rollback.py.
        tokens: read by the run until there.
        objective: what the steps from here on are measured by; see `lineage.objective`.
        changed_at: step since which it has been so; the run never rolls back behind it.
        changes: differences from the objective before, one line each.
    """

    state: TrainState
    step: int = 0
    seconds: float = 0.0
    skipped_batches: tuple[SkippedBatches, ...] = ()
    tokens: int = 0
    objective: Mapping[str, Any] = field(default_factory=dict)
    changed_at: int = 0
    changes: tuple[str, ...] = ()

    @property
    def batch_offset(self) -> int:
        """Return batch index minus step: the number of batches that rollbacks have skipped."""
        return sum(skipped.num_batches for skipped in self.skipped_batches)

    @property
    def is_rolled_back_to(self) -> bool:
        """Return whether the run was rolled back to this step and has made no progress since."""
        return bool(self.skipped_batches) and self.skipped_batches[-1].step == self.step

    def describe_changes(self) -> str:
        """Return the first of `changes`, and the number of further ones."""
        more = len(self.changes) - _SHOWN
        return "; ".join(self.changes[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

    def tokens_offset(self, tokens_per_step: int) -> int:
        """Return tokens read in addition to `step * tokens_per_step`, by steps of other sizes."""
        return self.tokens - self.step * tokens_per_step


def start_or_restore(setup: TrainingSetup, step: int | None, is_usual: bool = True) -> ResumePoint:
    """Read the checkpoint of a step, or make the state of step 0 if that is None.

    Args:
        setup: of the run.
        step: which.
        is_usual: whether losses are still what they were before the step.
    """
    config, plan, lineages = setup.config, setup.plan, setup.lineages
    now = objective(lineages.now) if lineages.now else {}
    if step is None:
        params = config.make_parameters(setup.model, plan.abstract.trainable)
        frozen = config.read_frozen(plan.abstract.frozen)
        state = init_state(params, setup.optimizer, plan, config.seed, frozen)
        return ResumePoint(state=state, objective=now)
    abstract = plan.abstract
    averaging = config.optimizer.averaging
    stored, rest = averaging.to_stored(abstract.trainable, abstract.opt_state)
    params, rest, metadata = setup.checkpoints.restore(
        step, stored, {"step": abstract.step, "rng": abstract.rng, **rest}
    )
    trainable, opt_state = averaging.from_stored(params, rest)
    history = _history(metadata, step, lineages, now)
    # A checkpoint of an earlier version, or of a run that skipped nothing, has no memory.
    is_usual = is_usual and history["changed_at"] < step
    memory = config.recovery.state_from_json(metadata.get("recovery", {}), is_usual)
    memory = jax.tree.map(
        lambda value, leaf: jax.device_put(value, leaf.sharding), memory, abstract.memory
    )
    return ResumePoint(
        state=TrainState(
            step=rest["step"],
            trainable=trainable,
            frozen=config.read_frozen(abstract.frozen),
            opt_state=opt_state,
            rng=rest["rng"],
            memory=memory,
        ),
        step=step,
        seconds=float(metadata["seconds"]),
        skipped_batches=tuple(SkippedBatches(*skipped) for skipped in metadata.get("jumps", ())),
        objective=now,
        **history,
    )


def _history(
    metadata: Mapping[str, Any], step: int, lineages: Lineages, now: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `tokens`, `changed_at` and `changes` of a start from what its step was saved with.

    Steps of earlier versions do not say: for them the run's lineage does.
    """
    then, tokens = metadata.get("objective"), metadata.get("tokens")
    if then is None:
        then = objective(lineages.then) if lineages.then else now
    if tokens is None:
        batch = lineages.then["config"]["batch"] if lineages.then else {}
        tokens = step * batch.get("global_batch_size", 0) * batch.get("sequence_length", 0)
    if lines := differences(with_current_tags(then), now):
        return {"tokens": tokens, "changed_at": step, "changes": tuple(lines)}
    return {
        "tokens": tokens,
        "changed_at": metadata.get("changed_at", 0),
        "changes": tuple(metadata.get("changes", ())),
    }


def save_state(
    setup: TrainingSetup,
    start: ResumePoint,
    log: MetricsLog,
    step: int,
    state: TrainState,
    metadata: dict[str, Any],
) -> None:
    """Begin saving a state as the checkpoint of `step`; see `Checkpoints.save`.

    Recovery needs a few hundred numbers; as JSON they need not fit the next run's settings.
    """
    config = setup.config
    params, rest = config.optimizer.averaging.to_stored(state.trainable, state.opt_state)
    rest = {"step": state.step, "rng": state.rng, **rest}
    metadata = metadata | {
        "recovery": config.recovery.state_to_json(jax.device_get(state.memory)),
        "jumps": [list(skipped) for skipped in start.skipped_batches],
        "tokens": start.tokens + (step - start.step) * config.batch.tokens_per_step,
        "objective": start.objective,
        "changed_at": start.changed_at,
        "changes": start.changes,
    }
    if setup.checkpoints.save(step, params, rest, metadata):
        log.event("save", step)
    log_checkpoint_events(setup.checkpoints, log, step)


def log_checkpoint_events(checkpoints: Checkpoints, log: MetricsLog, step: int) -> None:
    """Log events of checkpoints, under the step at which they were noticed."""
    for event in checkpoints.take_events():
        log.event(event.name, step, checkpoint=event.step, detail=event.detail)
