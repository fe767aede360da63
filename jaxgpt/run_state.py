"""A run's state: made anew or read from a checkpoint, and saved as one."""

from typing import Any

import flax.linen as nn
import optax
from jax.sharding import Mesh

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.experiment import TrainConfig
from jaxgpt.training.metrics import MetricsLog
from jaxgpt.training.state import StatePlan, TrainState, init_parameters, init_state


def start_state(
    config: TrainConfig,
    plan: StatePlan,
    optimizer: optax.GradientTransformation,
    model: nn.Module,
    mesh: Mesh,
    checkpoints: Checkpoints,
    latest: int | None,
) -> tuple[TrainState, float]:
    """The state to train from, and the seconds already spent on it."""
    if latest is None:
        params = init_parameters(model, config.sharding, mesh, config.seed)
        return init_state(params, optimizer, plan, config.seed), 0.0
    abstract = plan.abstract
    rest = {"step": abstract.step, "opt_state": abstract.opt_state, "rng": abstract.rng}
    params, rest, metadata = checkpoints.restore(latest, abstract.trainable, rest)
    return TrainState(trainable=params, frozen={}, **rest), float(metadata["seconds"])


def save_state(
    checkpoints: Checkpoints,
    log: MetricsLog,
    step: int,
    state: TrainState,
    metadata: dict[str, Any],
) -> None:
    """Begin saving a state as the checkpoint of `step`; see `Checkpoints.save`."""
    rest = {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
    if checkpoints.save(step, state.trainable, rest, metadata):
        log.event("save", step)
    log_checkpoint_events(checkpoints, log, step)


def log_checkpoint_events(checkpoints: Checkpoints, log: MetricsLog, step: int) -> None:
    """Log what has happened to checkpoints, under the step at which it was noticed.

    Events of later steps would go when the run goes back.
    """
    for event in checkpoints.take_events():
        log.event(event.name, step, checkpoint=event.step, detail=event.detail)
