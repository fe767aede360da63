"""What stays the same wherever a run starts from: mesh, model, optimiser, compiled step, loop."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.data.loader import TrainingBatches, open_training_batches
from jaxgpt.data.shards import TokenDataset
from jaxgpt.distributed.hosts import is_first_host
from jaxgpt.model.cost import flops_per_token
from jaxgpt.model.gpt import Gpt
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.runs.callbacks import Surroundings, make_hooks, replica_check, resolve_interval
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.mesh_check import check_mesh
from jaxgpt.runs.state import NO_LINEAGES, Lineages, ResumePoint, save_state
from jaxgpt.runtime.settings import peak_flops
from jaxgpt.runtime.target import compile_target
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.loop import ADVICE, Loop, Pause
from jaxgpt.training.loss import language_model_loss
from jaxgpt.training.metrics import MetricsLog, TrainingProgress
from jaxgpt.training.recovery import all_finite
from jaxgpt.training.state import StatePlan, TrainState, plan_state
from jaxgpt.training.step import StepMetrics, compile_ahead, compile_step, make_train_step
from jaxgpt.training.weight_copies import plan_copies


@dataclass(frozen=True)
class Sources:
    """What a run reads."""

    batches: TrainingBatches
    dataset: TokenDataset
    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A run that is set up and has not started; made by `set_up_training`."""

    config: TrainConfig
    run_dir: Path
    sources: Sources
    checkpoints: Checkpoints
    goodput: GoodputTracker
    mesh: Mesh
    model: Gpt
    plan: StatePlan
    optimizer: optax.GradientTransformation
    step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
    is_finite: Callable[[TrainState], bool]
    progress: TrainingProgress
    lineages: Lineages


class StepParts(NamedTuple):
    """The training step that a config describes, and what it is made of.

    Attributes:
        model: the model.
        plan: shapes and places of the state.
        optimizer: from gradients to updates.
        step: the jitted step; it compiles at its first call.
    """

    model: Gpt
    plan: StatePlan
    optimizer: optax.GradientTransformation
    step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def build_step(
    config: TrainConfig, mesh: Mesh, vocab_size: int, bytes_per_token_V: jax.Array
) -> StepParts:
    """Build the training step of a config for the devices of a mesh.

    Raises:
        ConfigError: the config does not fit on the mesh.
    """
    check_mesh(config, mesh)
    model, schedule = config.model.build(vocab_size), config.schedule.build()
    plan, optimizer = plan_state(
        model,
        lambda axes: config.optimizer.build(schedule, axes),
        config.sharding,
        mesh,
        config.recovery,
    )
    loss = language_model_loss(model, bytes_per_token_V, config.loss)
    num_micro_batches = config.batch.num_micro_batches
    copies = plan_copies(
        config.model, plan, compile_target(), num_micro_batches, config.runtime.max_copied_bytes
    )
    step = make_train_step(loss, optimizer, num_micro_batches, config.recovery, copies)
    return StepParts(model, plan, optimizer, compile_step(step, plan.abstract, mesh))


def open_sources(config: TrainConfig) -> Sources:
    """Open the datasets of a config; see `open_training_batches` for what it raises."""
    batches = open_training_batches(config.data, config.batch, config.seed)
    dataset = batches.datasets[0]
    return Sources(batches, dataset, dataset.load_tokenizer())


def set_up_training(
    config: TrainConfig,
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
    parts = build_step(config, mesh, sources.tokenizer.vocab_size, bytes_per_token)
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


def count_epochs(setup: TrainingSetup, start: ResumePoint) -> float:
    """Return how often a whole run reads its text; a mixture counts as one text."""
    tokens_per_step = setup.config.batch.tokens_per_step
    num_tokens = setup.config.schedule.num_steps * tokens_per_step
    num_tokens += start.tokens_offset(tokens_per_step)
    return num_tokens / setup.sources.batches.tokens_per_epoch


def compile_setup(setup: TrainingSetup) -> TrainingSetup:
    """The setup with its step compiled, rather than at the step's first call."""
    batch = setup.config.batch
    shape = (batch.global_batch_size, batch.sequence_length)
    step = compile_ahead(
        setup.step, setup.plan.abstract, shape, setup.config.data.mask_documents, setup.mesh
    )
    return dataclasses.replace(setup, step=step)


def make_loop(setup: TrainingSetup, start: ResumePoint, log: MetricsLog) -> Loop:
    """The loop from a start to the end of the run."""
    config, num_steps = setup.config, setup.config.schedule.num_steps
    check_replicas = replica_check(config, setup.mesh, log)

    def save(step: int, state: TrainState, metadata: dict[str, Any]) -> None:
        if check_replicas is not None:
            check_replicas(step, state)
        save_state(setup.checkpoints, log, config, start, step, state, metadata)

    pause = Pause()
    return Loop(
        step=setup.step,
        learning_rates=config.schedule.values(),
        num_steps=num_steps,
        tokens_per_step=config.batch.tokens_per_step,
        tokens_offset=start.tokens_offset(config.batch.tokens_per_step),
        advice=_advice(start),
        flops_per_token=flops_per_token(
            config.model, setup.sources.tokenizer.vocab_size, config.batch.sequence_length
        ),
        peak_flops=_total_peak(),
        log_every=config.logging.every_steps,
        save_every=resolve_interval(config.checkpoint.every_steps, num_steps),
        save=save,
        wait=setup.checkpoints.wait,
        hooks=make_hooks(
            Surroundings(
                config=config,
                model=setup.model,
                dataset=setup.sources.dataset,
                tokenizer=setup.sources.tokenizer,
                mesh=setup.mesh,
                log=log,
                progress=setup.progress,
                pause=pause,
            ),
            check_replicas,
        ),
        recovery=config.recovery,
        is_finite=setup.is_finite,
        batch_offset=start.batch_offset,
        goodput=setup.goodput,
        pause=pause,
    )


def _advice(start: ResumePoint) -> str:
    """Return the advice for a run that cannot go on: it depends on whether the run was changed."""
    if not start.changes:
        return ADVICE
    return (
        f"Since step {start.changed_at} the run has another objective, which may be the cause "
        f"({start.describe_changes()}). Look at the new text and settings, or lower "
        "schedule.peak_learning_rate, and resume"
    )


def _total_peak() -> float | None:
    peaks = [peak_flops(device) for device in jax.devices()]
    return None if None in peaks else sum(peak for peak in peaks if peak is not None)
