"""Set up a run from its config: mesh, model, optimiser, compiled step. Nothing is trained here."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import replace
from jaxgpt.distributed.hosts import is_first_host
from jaxgpt.evaluation.objective import Policy
from jaxgpt.model.adapted import check_targets, is_trained, join, merge
from jaxgpt.model.gpt import Gpt
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import AnyMesh
from jaxgpt.runs.config import RunConfig
from jaxgpt.runs.mesh_check import check_mesh
from jaxgpt.runs.sources import Sources
from jaxgpt.runtime.target import compile_target
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.metrics import TrainingProgress
from jaxgpt.training.recovery import all_finite
from jaxgpt.training.state import StatePlan, TrainState, frozen_parameters, plan_state
from jaxgpt.training.step import TrainingStep, compile_ahead, compile_step, make_train_step
from jaxgpt.training.weight_copies import plan_copies


class Lineages(NamedTuple):
    """Lineages of a run so far and of what continues it; the first is empty where it begins."""

    then: Mapping[str, Any]
    now: Mapping[str, Any]


NO_LINEAGES = Lineages({}, {})


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Everything that is built from a config before step 1, wherever the run then starts.

    Attributes:
        config, run_dir, sources, lineages: of the run.
        checkpoints: the run's own.
        goodput: where its time is booked.
        progress: for the person at the terminal.
        mesh: of all devices.
        model, plan, optimizer, held_out_loss, step: see `StepParts`.
        is_finite: whether a state may be saved.
    """

    config: RunConfig
    run_dir: Path
    sources: Sources
    checkpoints: Checkpoints
    goodput: GoodputTracker
    mesh: Mesh
    model: Gpt
    plan: StatePlan
    optimizer: optax.GradientTransformation
    held_out_loss: LossFunction
    step: TrainingStep
    is_finite: Callable[[TrainState], bool]
    progress: TrainingProgress
    lineages: Lineages

    def weights(self, state: TrainState) -> Any:
        """Return the parameters of `model` that a state stands for, to evaluate them."""
        averaging = self.config.optimizer.averaging
        return self._with_frozen(averaging.weights(state.trainable, state.opt_state), state)

    def merged_weights(self, state: TrainState) -> Any:
        """Return the parameters of `config.model` that do the same, to generate with them."""
        return merge(self.model, self.weights(state))

    def policy(self, state: TrainState) -> Any:
        """Return the parameters of `config.model` that the next step trains, and no average."""
        return merge(self.model, self._with_frozen(state.trainable, state))

    def _with_frozen(self, trained: Any, state: TrainState) -> Any:
        others = self.config.objective.frozen_models
        own = {name: part for name, part in state.frozen.items() if name not in others}
        return join(trained, own)


class StepParts(NamedTuple):
    """The training step that a config describes, and what it is made of.

    Attributes:
        model: the model.
        plan: shapes and places of the state.
        optimizer: from gradients to updates.
        held_out_loss: of a batch of held-out data.
        step: the jitted step; it compiles at its first call.
    """

    model: Gpt
    plan: StatePlan
    optimizer: optax.GradientTransformation
    held_out_loss: LossFunction
    step: TrainingStep


def build_step(
    config: RunConfig,
    mesh: Mesh,
    vocab_size: int,
    bytes_per_token_V: jax.Array,
    num_segments: int = 0,
) -> StepParts:
    """Build the training step of a config for the devices of a mesh.

    Args:
        config: of the run.
        mesh: of its devices.
        vocab_size, bytes_per_token_V: the tokenizer's.
        num_segments: most segments that a row of a batch has; 0: it is not known.

    Raises:
        ConfigError: the config does not fit on the mesh.
    """
    check_mesh(config, mesh)
    model = config.build_model(vocab_size)
    plan, optimizer = plan_run_state(config, model, mesh)
    check_targets(model, join(plan.abstract.trainable, plan.abstract.frozen))
    about = model, bytes_per_token_V, config.loss, num_segments
    loss = config.objective.build_loss(*about)
    held_out_loss = config.objective.build_held_out_loss(*about)
    num_micro_batches = config.batch.num_micro_batches
    copies = plan_copies(
        config.model, plan, compile_target(), num_micro_batches, config.runtime.max_copied_bytes
    )
    step = make_train_step(loss, optimizer, num_micro_batches, config.recovery, copies)
    plan = with_frozen_models(plan, config, mesh, vocab_size)
    return StepParts(model, plan, optimizer, held_out_loss, compile_step(step, plan.abstract, mesh))


def plan_run_state(
    config: RunConfig, model: Gpt, mesh: AnyMesh
) -> tuple[StatePlan, optax.GradientTransformation]:
    """Work out the state of a run, and return its optimizer; other models are not in the state."""
    schedule = config.schedule.build()
    return plan_state(
        model,
        lambda axes: config.optimizer.build(schedule, axes),
        config.sharding,
        mesh,
        config.recovery,
        partial(is_trained, model),
    )


def with_frozen_models(
    plan: StatePlan, config: RunConfig, mesh: AnyMesh, vocab_size: int
) -> StatePlan:
    """Add the parameters of the other models that the loss reads, each under its name."""
    frozen = dict(plan.abstract.frozen)
    for name, other in config.objective.frozen_models.items():
        check_mesh(replace(config, model=other.model), mesh)
        other.model.position.check_length(config.batch.sequence_length)
        frozen[name] = frozen_parameters(other.model.build(vocab_size), config.sharding, mesh)
    return plan.replace(abstract=plan.abstract.replace(frozen=frozen))


def set_up_training(
    config: RunConfig,
    run_dir: Path,
    sources: Sources,
    checkpoints: Checkpoints,
    goodput: GoodputTracker,
    lineages: Lineages = NO_LINEAGES,
) -> TrainingSetup:
    """Set up what a config describes on the devices that there are.

    Raises:
        ConfigError: it does not fit on the mesh.
    """
    mesh = make_mesh(config.mesh)
    bytes_per_token = jnp.asarray(sources.tokenizer.bytes_per_token)
    parts = build_step(
        config,
        mesh,
        sources.tokenizer.vocab_size,
        bytes_per_token,
        sources.batches.num_segments,
    )
    look_through = jax.jit(all_finite)
    return TrainingSetup(
        config=config,
        run_dir=run_dir,
        sources=sources,
        checkpoints=checkpoints,
        goodput=goodput,
        mesh=mesh,
        model=parts.model,
        plan=parts.plan,
        optimizer=parts.optimizer,
        held_out_loss=parts.held_out_loss,
        step=parts.step,
        is_finite=lambda state: bool(look_through((state.trainable, state.opt_state))),
        progress=TrainingProgress(
            config.schedule.num_steps,
            config.logging.progress_seconds,
            sources.batches.tokens_per_epoch,
            silent=not is_first_host(),
        ),
        lineages=lineages,
    )


def compile_setup(setup: TrainingSetup) -> TrainingSetup:
    """Return the setup with its step compiled now, instead of at the step's first call, and with
    what the objective does before each step."""
    example, num_rows = setup.sources.batches.pick(0, [0]), setup.config.batch.global_batch_size
    config, tokenizer = setup.config, setup.sources.tokenizer
    step = compile_ahead(setup.step, setup.plan.abstract, example, num_rows, setup.mesh)
    policy = Policy(
        model=config.model.build(tokenizer.vocab_size),
        params_of=setup.policy,
        tokenizer=tokenizer,
        mesh=setup.mesh,
        seed=config.seed,
    )
    return dataclasses.replace(setup, step=config.objective.wrap_step(step, policy))
