"""One pretraining run from its config: its folder, where it starts, and the way to its end.

Starts a run or continues it; what is trained and how is put together in setup.py.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
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
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.folder import (
    Resume,
    check_folder_is_shared,
    check_resume_mode,
    read_lineage,
    write_description,
)
from jaxgpt.runs.mesh_check import check_param_dtype
from jaxgpt.runs.remote import copied
from jaxgpt.runs.report.report import HTML_NAME, write_run_report
from jaxgpt.runs.setup import (
    Sources,
    TrainingSetup,
    compile_setup,
    count_epochs,
    make_loop,
    open_sources,
    set_up_training,
)
from jaxgpt.runs.state import Lineages, ResumePoint, log_checkpoint_events, start_state
from jaxgpt.runtime.settings import configure_runtime, describe_devices
from jaxgpt.stop_signal import StopSignal
from jaxgpt.storage.durable import FolderLock
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.loop import fit
from jaxgpt.training.metrics import MetricsLog, read_records
from jaxgpt.training.overfitting import warn_of_text
from jaxgpt.training.rollback import SkippedBatches, UnstableError
from jaxgpt.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


def train_run(
    config: TrainConfig,
    run_dir: Path,
    resume: Resume,
    allow_data_change: bool,
    began: float | None = None,
    url: str | None = None,
) -> None:
    """Train until `schedule.num_steps`, from the newest checkpoint in `run_dir` if there is one.

    Args:
        config: what to train and how.
        run_dir: the run's folder.
        resume: whether to continue a run, or refuse to.
        allow_data_change: continue on another dataset, too.
        began: `time.monotonic()` from which the run's time counts; None: from now.
        url: where the run lives, if not in `run_dir`, which then is the copy that is worked on.

    Raises:
        ConfigError: the weights are not float32; see `check_param_dtype`.
        UsageError: the folder is in use or not writable, or `resume` forbids what it holds.
        UnfinishedError: the run is saved here and could not be copied to `url`.
        MismatchError: the run was started on another model, tokenizer or dataset.
        NoCheckpointError: `resume` is "must" and there is none.
        InterruptedByUser, UnfinishedError, DivergedError: see `fit`.
    """
    began = time.monotonic() if began is None else began
    # A run that eval could not open afterwards is not worth starting.
    from_dict(to_dict(config), TrainConfig)
    check_param_dtype(config)
    if url is None and not run_dir.exists():
        check_resume_mode(resume, None, run_dir)  # Before the lock creates the folder.
    configure_runtime(config.runtime)
    sources = open_sources(config)
    checked = preflight(
        {
            "versions": package_versions(),
            "config": to_dict(config),
            "dataset": sources.batches.fingerprint,
            "tokenizer": sources.tokenizer.fingerprint,
            "options": [str(run_dir), url, resume, allow_data_change],
        }
    )
    # One host writes the folder; all of them write arrays of checkpoints, and read.
    first = is_first_host()
    with (
        FolderLock(run_dir) if first else nullcontext(),
        StopSignal() as stop,
        copied(run_dir, url, config.checkpoint) as copy,
    ):
        check_folder_is_shared(run_dir)
        directory = run_dir / "checkpoints"
        with closing(Checkpoints(directory, config.checkpoint, copy=copy)) as checkpoints:
            # First by name: a resume that is refused must leave the folder as it was.
            if first:
                check_resume_mode(resume, checkpoints.latest(), run_dir)
            latest = checkpoints.latest_verified()
            lineage = _lineage(config, sources)
            then: dict[str, Any] = {}
            if first:
                then = _check_resume(run_dir, resume, latest, lineage, allow_data_change)
            latest = broadcast_from_first("the step to start from", latest)
            lineages = Lineages(broadcast_from_first("the lineage so far", then), lineage)
            if latest is None or latest < config.schedule.num_steps:
                goodput = GoodputTracker(run_dir if first else None, began)
                with Watchdog(config.watchdog, goodput, run_dir), goodput.written():
                    setup = set_up_training(
                        config, run_dir, sources, checkpoints, goodput, lineages
                    )
                    _train(setup, latest, stop, checked)
                    _report(run_dir, goodput, first)
            else:
                logger.info("%s is finished: step %d", run_dir, latest)
                if first and not (run_dir / HTML_NAME).exists():
                    logger.info("report: %s", write_run_report(run_dir))


def _report(run_dir: Path, goodput: GoodputTracker, first: bool) -> None:
    goodput.enter("report")
    if first:
        goodput.write()
        logger.info("report: %s", write_run_report(run_dir))


def _check_resume(
    run_dir: Path,
    resume: Resume,
    latest: int | None,
    lineage: dict[str, Any],
    allow_data_change: bool,
) -> dict[str, Any]:
    """Refuse what may not go on; return the lineage of the run so far, empty if there is none."""
    check_resume_mode(resume, latest, run_dir)
    if latest is None:
        return {}
    lineage_then = read_lineage(run_dir)
    for difference in check_resume(lineage_then, lineage, allow_data_change):
        logger.info("differs from the run so far: %s", difference)
    return lineage_then


def _train(
    setup: TrainingSetup,
    latest: int | None,
    stop: StopSignal,
    checked: dict[str, Any],
) -> None:
    config = setup.config
    with on_mesh(setup.mesh, config.sharding):
        start = _start(setup, latest)
        with setup.goodput.spending("compile"):
            setup = compile_setup(setup)
        # Only now: a resume that is refused must leave the folder as it was.
        if is_first_host():
            lineage = dict(setup.lineages.now)
            write_description(setup.run_dir, config, setup.sources.tokenizer, lineage)
        size = num_parameters(config.model, setup.sources.tokenizer.vocab_size)
        setup.progress.say(
            f"{setup.run_dir}: {size:,} parameters, {setup.mesh.size} x "
            f"{jax.devices()[0].device_kind}, step {start.step} of {config.schedule.num_steps}, "
            f"{count_epochs(setup, start):.2f} epochs of "
            f"{setup.sources.batches.tokens_per_epoch:,} tokens"
        )
        held_out = setup.sources.dataset.splits["val"].num_tokens
        for warning in warn_of_text(count_epochs(setup, start), held_out):
            setup.progress.say(f"WARNING {warning}")
        event = "start" if latest is None else "resume"
        details = {"num_parameters": size, **describe_devices(), **checked}
        if start.changes and start.changed_at == start.step:
            details["changes"] = list(start.changes)
            setup.progress.say(
                f"from step {start.step} on the run has another objective: what losses and "
                f"gradients are usual is learned again ({start.describe_changes()})"
            )
        with _waiting_for_the_last_save(setup):
            while (error := _train_from(setup, start, stop, event, details)) is not None:
                start, details = _roll_back(setup, start, error)
                event, number = "rollback", details["batches"][1]
                setup.progress.say(
                    f"{error}. Going on from step {start.step}, past {number} batches"
                )


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


def _start(setup: TrainingSetup, step: int | None, is_usual: bool = True) -> ResumePoint:
    with setup.goodput.spending("restore"):
        return start_state(
            setup.config,
            setup.plan,
            setup.optimizer,
            setup.model,
            setup.checkpoints,
            step,
            setup.lineages,
            is_usual,
        )


def _roll_back(
    setup: TrainingSetup, start: ResumePoint, error: UnstableError
) -> tuple[ResumePoint, dict[str, Any]]:
    """An older start from which other batches follow, and what the log should say of it.

    Raises:
        UnstableError: the run has gone back often enough, or there is nothing to go back to.
    """
    # Waiting for a save and hashing take longer than a step may.
    with setup.goodput.spending("restore"):
        step = _find_rollback_step(setup, start, error)
        setup.checkpoints.abandon_after(step)
        # The same parameters on other batches again would be refused again: the level is another.
        is_usual = not (error.is_level and start.is_rolled_back_to and step == start.step)
        again = _start(setup, step, is_usual)
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
    return replace(
        again, skipped_batches=(*start.skipped_batches, skipped), seconds=start.seconds
    ), details


def _find_rollback_step(setup: TrainingSetup, start: ResumePoint, error: UnstableError) -> int:
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


def _train_from(
    setup: TrainingSetup, start: ResumePoint, stop: StopSignal, event: str, details: dict[str, Any]
) -> UnstableError | None:
    """Train from a start to the end of the run; return what made it impossible, if anything."""
    config, goodput = setup.config, setup.goodput
    num_rows, num_steps = config.batch.global_batch_size, config.schedule.num_steps
    log_dir = setup.run_dir if is_first_host() else None
    with MetricsLog(log_dir, start.step, config.logging.tensorboard) as log:
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
        log.event("finished", num_steps)
    return None


def _lineage(config: TrainConfig, sources: Sources) -> dict[str, Any]:
    return make_lineage(
        config=to_dict(config),
        data=sources.batches.fingerprint,
        tokenizer=sources.tokenizer.fingerprint,
        devices=describe_devices(),
    )
