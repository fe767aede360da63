"""One pretraining run, from its config to its report; `train_run` reads from top to bottom."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import jax

from jaxgpt.checkpoints.lineage import check_resume, make_lineage, package_versions
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import from_dict, to_dict
from jaxgpt.distributed.agreed_stop import stop_of_all_hosts
from jaxgpt.distributed.hosts import broadcast_from_first, is_first_host
from jaxgpt.distributed.preflight import preflight
from jaxgpt.errors import JaxgptError
from jaxgpt.model.cost import num_parameters
from jaxgpt.parallel.sharding import host_rows, on_mesh, to_devices
from jaxgpt.runs.config import RunConfig
from jaxgpt.runs.folder import (
    Resume,
    check_folder_is_shared,
    check_resume_mode,
    read_lineage,
    write_description,
)
from jaxgpt.runs.loop import make_loop
from jaxgpt.runs.mesh_check import check_param_dtype
from jaxgpt.runs.remote import copied
from jaxgpt.runs.report.report import HTML_NAME, write_run_report
from jaxgpt.runs.rollback import roll_back
from jaxgpt.runs.setup import Lineages, TrainingSetup, compile_setup, set_up_training
from jaxgpt.runs.sources import Sources
from jaxgpt.runs.state import ResumePoint, log_checkpoint_events, start_or_restore
from jaxgpt.runtime.settings import configure_runtime, describe_devices
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.loop import fit
from jaxgpt.training.metrics import MetricsLog
from jaxgpt.training.rollback import UnstableError
from jaxgpt.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def train_run(
    config: RunConfig,
    run_dir: Path,
    resume: Resume,
    allow_data_change: bool,
    began: float | None = None,
    url: str | None = None,
    sources: Sources | None = None,
) -> None:
    """Train until `schedule.num_steps`, from the newest checkpoint in `run_dir` if there is one.

    Args:
        config: what to train and how.
        run_dir: the run's folder.
        resume: whether to continue a run, or refuse to.
        allow_data_change: continue on another dataset, too.
        began: `time.monotonic()` from which the run's time counts; None: from now.
        url: where the run lives, if not in `run_dir`, which then is the copy that is worked on.
        sources: data of the config, if they are open already.

    Raises:
        ConfigError: the weights are not float32; see `check_param_dtype`.
        UsageError: the folder is in use or not writable, or `resume` forbids what it holds.
        UnfinishedError: the run is saved here and could not be copied to `url`.
        MismatchError: the run was started on another model, tokenizer or dataset.
        NoCheckpointError: `resume` is "must" and there is none.
        InterruptedByUser, UnfinishedError, DivergedError: see `fit`.
    """
    began = time.monotonic() if began is None else began

    # ---- Check the config. A run that eval could not open afterwards is not worth starting.
    from_dict(to_dict(config), type(config))
    check_param_dtype(config)
    if url is None and not run_dir.exists():
        check_resume_mode(resume, None, run_dir)  # Before the lock creates the folder.

    # ---- Open the data, and check that all hosts are about to do the same.
    configure_runtime(config.runtime)
    sources = config.open_sources() if sources is None else sources
    options = [str(run_dir), url, resume, allow_data_change]
    checked = _check_hosts(config, sources, options)

    with _open_run(run_dir, url, config) as (checkpoints, stop):
        # ---- Find the step to go on from, or refuse to.
        lineage = _make_lineage(config, sources)
        latest, then = _find_newest_step(run_dir, checkpoints, resume, lineage, allow_data_change)
        if latest is not None and latest >= config.schedule.num_steps:
            _report_finished(run_dir, latest)
            return
        goodput = GoodputTracker(run_dir if is_first_host() else None, began)
        with Watchdog(config.watchdog, goodput, run_dir), goodput.written():
            # Only now: what it writes must not change a run that is not continued.
            sources = config.prepare_sources(sources, run_dir, goodput.heartbeat)
            # ---- Build mesh, model and optimiser; make the state or restore it; compile the step.
            lineages = Lineages(then, lineage)
            setup = set_up_training(config, run_dir, sources, checkpoints, goodput, lineages)
            with on_mesh(setup.mesh, config.sharding):
                with goodput.spending("restore"):
                    start = start_or_restore(setup, latest)
                with goodput.spending("compile"):
                    setup = compile_setup(setup)

                # ---- Describe the run. Only now, as a resume may have been refused until here.
                if is_first_host():
                    write_description(run_dir, config, sources.tokenizer, lineage)
                _announce(setup, start)

                # ---- Train to the last step; each time the run becomes unstable, roll it back.
                event, details = _first_event(setup, start, latest, checked)
                with _waiting_for_the_last_save(setup):
                    while (error := _train_from(setup, start, stop, event, details)) is not None:
                        start, details = roll_back(setup, start, error)
                        event, number = "rollback", details["batches"][1]
                        setup.progress.say(
                            f"{error}. Continuing from step {start.step}, skipping {number} batches"
                        )

            # ---- Write the report.
            goodput.enter("report")
            if is_first_host():
                goodput.write()
                logger.info("report: %s", write_run_report(run_dir))


def _check_hosts(config: RunConfig, sources: Sources, options: list[Any]) -> dict[str, Any]:
    """Refuse hosts that differ; return facts about them for the log."""
    return preflight(
        {
            "versions": package_versions(),
            "config": to_dict(config),
            "dataset": sources.batches.fingerprint,
            "tokenizer": sources.tokenizer.fingerprint,
            "options": options,
        }
    )


@contextmanager
def _open_run(
    run_dir: Path, url: str | None, config: RunConfig
) -> Iterator[tuple[Checkpoints, StopSignal]]:
    """Hold a run's folder, its copy at a URL, and the signals that stop the run."""
    # One host writes the folder; all of them write arrays of checkpoints, and read.
    with (
        FolderLock(run_dir) if is_first_host() else nullcontext(),
        StopSignal() as stop,
        copied(run_dir, url, config.checkpoint) as copy,
    ):
        check_folder_is_shared(run_dir)
        directory = run_dir / "checkpoints"
        with closing(Checkpoints(directory, config.checkpoint, copy=copy)) as checkpoints:
            yield checkpoints, stop


def _make_lineage(config: RunConfig, sources: Sources) -> dict[str, Any]:
    return make_lineage(
        config=to_dict(config),
        data=sources.batches.fingerprint,
        tokenizer=sources.tokenizer.fingerprint,
        devices=describe_devices(),
    )


def _find_newest_step(
    run_dir: Path,
    checkpoints: Checkpoints,
    resume: Resume,
    lineage: dict[str, Any],
    allow_data_change: bool,
) -> tuple[int | None, dict[str, Any]]:
    """Return the newest whole step and the lineage of the run so far; None and {} for a new run.

    Raises:
        see `train_run`: the run may not go on.
    """
    # First by name: a resume that is refused must leave the folder as it was.
    if is_first_host():
        check_resume_mode(resume, checkpoints.latest(), run_dir)
    latest = checkpoints.latest_verified()
    then: dict[str, Any] = {}
    if is_first_host():
        check_resume_mode(resume, latest, run_dir)
        if latest is not None:
            then = read_lineage(run_dir)
            for difference in check_resume(then, lineage, allow_data_change):
                logger.info("differs from the run so far: %s", difference)
    latest = broadcast_from_first("the step to start from", latest)
    return latest, broadcast_from_first("the lineage so far", then)


def _report_finished(run_dir: Path, step: int) -> None:
    logger.info("%s is finished: step %d", run_dir, step)
    if is_first_host() and not (run_dir / HTML_NAME).exists():
        logger.info("report: %s", write_run_report(run_dir))


def _announce(setup: TrainingSetup, start: ResumePoint) -> None:
    """Say what is trained and from where, and warn of too little text."""
    num_steps = setup.config.schedule.num_steps
    tokens_per_epoch = setup.sources.batches.tokens_per_epoch
    tokens_per_step = setup.config.batch.tokens_per_step
    num_tokens = num_steps * tokens_per_step + start.tokens_offset(tokens_per_step)
    num_epochs = num_tokens / tokens_per_epoch  # Of the whole run; a mixture counts as one text.
    setup.progress.say(
        f"{setup.run_dir}: {_describe_parameters(setup)}, {setup.mesh.size} x "
        f"{jax.devices()[0].device_kind}, step {start.step} of {num_steps}, "
        f"{num_epochs:.2f} epochs of {tokens_per_epoch:,} tokens"
    )
    for warning in setup.sources.warn(num_epochs):
        setup.progress.say(f"WARNING {warning}")
    if _is_changed_here(start):
        setup.progress.say(
            f"from step {start.step} on the run has another objective, so usual losses and "
            f"gradients are learned again ({start.describe_changes()})"
        )


def _first_event(
    setup: TrainingSetup, start: ResumePoint, latest: int | None, checked: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the name and the details of the event that opens this process's log."""
    details = {"num_parameters": _num_parameters(setup), **describe_devices(), **checked}
    if _is_changed_here(start):
        details["changes"] = list(start.changes)
    return "start" if latest is None else "resume", details


def _num_parameters(setup: TrainingSetup) -> int:
    return num_parameters(setup.config.model, setup.sources.tokenizer.vocab_size)


def _describe_parameters(setup: TrainingSetup) -> str:
    number = f"{_num_parameters(setup):,} parameters"
    if not setup.model.adapter.has_parameters:
        return number
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(setup.plan.abstract.trainable))
    what = "an adapter and a head" if setup.model.config.head.is_new else "an adapter"
    return f"{number}, {what} of {trained:,}, which alone are trained"


def _is_changed_here(start: ResumePoint) -> bool:
    return bool(start.changes) and start.changed_at == start.step


def _train_from(
    setup: TrainingSetup, start: ResumePoint, stop: StopSignal, event: str, details: dict[str, Any]
) -> UnstableError | None:
    """Train from a resume point to the end of the run; return why it is unstable, if it is."""
    config, goodput = setup.config, setup.goodput
    num_rows = config.batch.global_batch_size
    log_dir = setup.run_dir if is_first_host() else None
    # A run that measures its start does so again if it is killed before its first save.
    kept = -1 if config.measures_start and start.step == 0 else start.step
    with MetricsLog(log_dir, kept, config.logging.tensorboard) as log:
        log.event(event, start.step, **details)
        log_checkpoint_events(setup.checkpoints, log, start.step)
        host_batches = setup.sources.batches.iterate(
            start.step + start.batch_offset, host_rows(setup.mesh, num_rows)
        )
        with closing(host_batches):
            batches = (to_devices(batch, setup.mesh, num_rows) for batch in host_batches)
            agreed = stop_of_all_hosts(stop, setup.mesh)
            loop = make_loop(setup, start, log)
            try:
                fit(loop, start.state, batches, log, setup.progress, agreed, start.seconds)
            except UnstableError as error:
                # Without its tracebacks, which would keep the state in memory.
                error.__context__ = None
                return error.with_traceback(None)
        with goodput.spending("save"):
            setup.checkpoints.wait()
        log.event("finished", config.schedule.num_steps)
    return None


@contextmanager
def _waiting_for_the_last_save(setup: TrainingSetup) -> Iterator[None]:
    """Wait for the last save of a run that ends early, while the watchdog still looks on.

    If that fails as well it is logged; why the run ends decides how.
    """
    try:
        yield
    except BaseException:
        with setup.goodput.spending("save"), suppress(JaxgptError):
            setup.checkpoints.wait()
        raise
