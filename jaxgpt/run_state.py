"""A run's state: made anew or read from a checkpoint, and saved as one."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.experiment import TrainConfig
from jaxgpt.training.metrics import MetricsLog
from jaxgpt.training.rollback import Jump
from jaxgpt.training.state import StatePlan, TrainState, init_state, make_parameters


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts from, or goes on.

    Attributes:
        state: at that moment.
        step: steps done.
        seconds: already spent on it.
        jumps: batches that the run has passed over until there; see rollback.py.
    """

    state: TrainState
    step: int = 0
    seconds: float = 0.0
    jumps: tuple[Jump, ...] = ()

    @property
    def batch_offset(self) -> int:
        """The next step reads the batch of this number more than steps are done."""
        return sum(jump.num_batches for jump in self.jumps)


def start_state(
    config: TrainConfig,
    plan: StatePlan,
    optimizer: optax.GradientTransformation,
    model: nn.Module,
    checkpoints: Checkpoints,
    step: int | None,
) -> Start:
    """Read the checkpoint of a step, or make the state of step 0 if that is None."""
    if step is None:
        params = make_parameters(model, plan.abstract.trainable, config.seed)
        return Start(state=init_state(params, optimizer, plan, config.seed))
    abstract = plan.abstract
    averaging = config.optimizer.averaging
    stored, rest = averaging.to_stored(abstract.trainable, abstract.opt_state)
    params, rest, metadata = checkpoints.restore(
        step, stored, {"step": abstract.step, "rng": abstract.rng, **rest}
    )
    trainable, opt_state = averaging.from_stored(params, rest)
    # A checkpoint of an earlier version, or of a run that skipped nothing, has no memory.
    memory = config.recovery.recall(metadata.get("recovery", {}))
    memory = jax.tree.map(
        lambda value, leaf: jax.device_put(value, leaf.sharding), memory, abstract.memory
    )
    return Start(
        state=TrainState(
            step=rest["step"],
            trainable=trainable,
            frozen={},
            opt_state=opt_state,
            rng=rest["rng"],
            memory=memory,
        ),
        step=step,
        seconds=float(metadata["seconds"]),
        jumps=tuple(Jump(*jump) for jump in metadata.get("jumps", ())),
    )


def save_state(
    checkpoints: Checkpoints,
    log: MetricsLog,
    config: TrainConfig,
    start: Start,
    step: int,
    state: TrainState,
    metadata: dict[str, Any],
) -> None:
    """Begin saving a state as the checkpoint of `step`; see `Checkpoints.save`.

    What recovery needs is a few hundred numbers; as JSON they need not fit the next run's settings.
    """
    params, rest = config.optimizer.averaging.to_stored(state.trainable, state.opt_state)
    rest = {"step": state.step, "rng": state.rng, **rest}
    metadata = metadata | {
        "recovery": config.recovery.remembered(jax.device_get(state.memory)),
        "jumps": [list(jump) for jump in start.jumps],
    }
    if checkpoints.save(step, params, rest, metadata):
        log.event("save", step)
    log_checkpoint_events(checkpoints, log, step)


def log_checkpoint_events(checkpoints: Checkpoints, log: MetricsLog, step: int) -> None:
    """Log what has happened to checkpoints, under the step at which it was noticed."""
    for event in checkpoints.take_events():
        log.event(event.name, step, checkpoint=event.step, detail=event.detail)
