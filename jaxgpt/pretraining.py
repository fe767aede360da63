"""One pretraining run from its config: folder, data, state, hooks and loop put together.

Starts a run or continues it; what is trained and how is decided in the sections it composes.
"""

import logging
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.checkpoints.lineage import check_resume, make_lineage
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import from_dict, to_dict
from jaxgpt.data.loader import TrainingBatches, open_training_batches
from jaxgpt.durable import FolderLock
from jaxgpt.errors import ConfigError
from jaxgpt.experiment import TrainConfig
from jaxgpt.hooks import Surroundings, interval, make_hooks
from jaxgpt.model.cost import flops_per_token, num_parameters
from jaxgpt.parallel.agreed_stop import stop_of_all_hosts
from jaxgpt.parallel.hosts import is_first_host, share
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.runtime import configure_runtime, describe_devices, peak_flops
from jaxgpt.parallel.sharding import (
    batch_shards,
    check_length,
    host_rows,
    on_mesh,
    to_devices,
)
from jaxgpt.reporting.run_report import HTML_NAME, write_run_report
from jaxgpt.run_files import Resume, check_resume_mode, read_lineage, write_description
from jaxgpt.run_state import log_checkpoint_events, save_state, start_state
from jaxgpt.shards import TokenDataset
from jaxgpt.stopping import StopSignal
from jaxgpt.tokenizer import Tokenizer
from jaxgpt.training.loop import Loop, fit
from jaxgpt.training.loss import language_model_loss
from jaxgpt.training.metrics import MetricsLog, Progress
from jaxgpt.training.state import plan_state
from jaxgpt.training.step import compile_step, make_train_step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sources:
    """What a run reads."""

    batches: TrainingBatches
    dataset: TokenDataset
    tokenizer: Tokenizer


def train_run(config: TrainConfig, run_dir: Path, resume: Resume, allow_data_change: bool) -> None:
    """Train until `schedule.num_steps`, from the newest checkpoint in `run_dir` if there is one.

    Raises:
        UsageError: the folder is in use or not writable, or `resume` forbids what it holds.
        MismatchError: the run was started on another model, tokenizer or dataset.
        NoCheckpointError: `resume` is "must" and there is none.
        InterruptedByUser, UnfinishedError, DivergedError: see `fit`.
    """
    # A run that eval could not open afterwards is not worth starting.
    from_dict(to_dict(config), TrainConfig)
    if not run_dir.exists():
        check_resume_mode(resume, None, run_dir)  # Before the lock creates the folder.
    configure_runtime(config.runtime)
    sources = _open_sources(config)
    # One host writes the folder; all of them write arrays of checkpoints, and read.
    first = is_first_host()
    with FolderLock(run_dir) if first else nullcontext(), StopSignal() as stop:
        checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint)
        with closing(checkpoints):
            # First by name: a resume that is refused must leave the folder as it was.
            if first:
                check_resume_mode(resume, checkpoints.latest(), run_dir)
            latest = checkpoints.latest_verified()
            lineage = _lineage(config, sources)
            if first:
                _check_resume(run_dir, resume, latest, lineage, allow_data_change)
            latest = share("the step to start from", latest)
            if latest is None or latest < config.schedule.num_steps:
                _train(config, run_dir, sources, lineage, checkpoints, latest, stop)
            else:
                logger.info("%s is finished: step %d", run_dir, latest)
        is_new = not (run_dir / HTML_NAME).exists() or latest != config.schedule.num_steps
        if first and is_new:
            logger.info("report: %s", write_run_report(run_dir))


def _check_resume(
    run_dir: Path,
    resume: Resume,
    latest: int | None,
    lineage: dict[str, Any],
    allow_data_change: bool,
) -> None:
    check_resume_mode(resume, latest, run_dir)
    if latest is not None:
        lineage_then = read_lineage(run_dir)
        for difference in check_resume(lineage_then, lineage, allow_data_change):
            logger.info("differs from the run so far: %s", difference)


def _train(
    config: TrainConfig,
    run_dir: Path,
    sources: _Sources,
    lineage: dict[str, Any],
    checkpoints: Checkpoints,
    latest: int | None,
    stop: StopSignal,
) -> None:
    mesh = make_mesh(config.mesh)
    _check_divisible(config, batch_shards(mesh))
    rows = config.batch.global_batch_size // config.batch.num_micro_batches
    config.model.layers.check(mesh.shape, rows)
    check_length(config.batch.sequence_length, mesh)
    first, num_rows = is_first_host(), config.batch.global_batch_size
    progress = Progress(
        config.schedule.num_steps, config.logging.progress_seconds, silent=not first
    )
    model = config.model.build(sources.tokenizer.vocab_size)
    schedule = config.schedule.build()
    plan, optimizer = plan_state(
        model, lambda axes: config.optimizer.build(schedule, axes), config.sharding, mesh
    )
    loss = language_model_loss(model, jnp.asarray(sources.tokenizer.bytes_per_token), config.loss)
    step = make_train_step(loss, optimizer, config.batch.num_micro_batches)
    with on_mesh(mesh, config.sharding):
        state, seconds = start_state(config, plan, optimizer, model, mesh, checkpoints, latest)
        start = 0 if latest is None else latest
        # Only now: a resume that is refused must leave the folder as it was.
        if first:
            write_description(run_dir, config, sources.tokenizer, lineage)
        with MetricsLog(run_dir if first else None, start, config.logging.tensorboard) as log:
            vocab_size, num_steps = sources.tokenizer.vocab_size, config.schedule.num_steps
            size = num_parameters(config.model, vocab_size)
            progress.say(
                f"{run_dir}: {size:,} parameters, {mesh.size} x {jax.devices()[0].device_kind}, "
                f"step {start} of {num_steps}"
            )
            name = "start" if latest is None else "resume"
            log.event(name, start, num_parameters=size, **describe_devices())
            log_checkpoint_events(checkpoints, log, start)
            loop = Loop(
                step=compile_step(step, plan.abstract, mesh),
                learning_rates=config.schedule.values(),
                num_steps=num_steps,
                tokens_per_step=config.batch.global_batch_size * config.batch.sequence_length,
                flops_per_token=flops_per_token(
                    config.model, vocab_size, config.batch.sequence_length
                ),
                peak_flops=_total_peak(),
                log_every=config.logging.every_steps,
                save_every=interval(config.checkpoint.every_steps, num_steps),
                save=lambda done, state, meta: save_state(checkpoints, log, done, state, meta),
                hooks=make_hooks(
                    Surroundings(
                        config=config,
                        model=model,
                        dataset=sources.dataset,
                        tokenizer=sources.tokenizer,
                        mesh=mesh,
                        log=log,
                        progress=progress,
                    )
                ),
            )
            host_batches = sources.batches.iterate(start, host_rows(mesh, num_rows))
            with closing(host_batches):
                batches = (to_devices(batch, mesh, num_rows) for batch in host_batches)
                agreed = stop_of_all_hosts(stop, mesh)
                fit(loop, state, batches, log, progress, agreed, seconds)
            checkpoints.wait()
            log.event("finished", num_steps)


def _open_sources(config: TrainConfig) -> _Sources:
    batches = open_training_batches(config.data, config.batch, config.seed)
    dataset = batches.datasets[0]
    return _Sources(batches, dataset, dataset.load_tokenizer())


def _lineage(config: TrainConfig, sources: _Sources) -> dict[str, Any]:
    return make_lineage(
        config=to_dict(config),
        data=sources.batches.fingerprint,
        tokenizer=sources.tokenizer.fingerprint,
        devices=describe_devices(),
    )


def _check_divisible(config: TrainConfig, shards: int) -> None:
    rows, parts = config.batch.global_batch_size, config.batch.num_micro_batches
    if rows % (shards * parts):
        raise ConfigError(
            f"batch.global_batch_size={rows} is not divisible by {shards} batch shards x "
            f"batch.num_micro_batches={parts}; use a multiple of {shards * parts}"
        )


def _total_peak() -> float | None:
    peaks = [peak_flops(device) for device in jax.devices()]
    return None if None in peaks else sum(peak for peak in peaks if peak is not None)
