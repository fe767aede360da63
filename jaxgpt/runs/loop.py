"""Give the training loop what a run's config says: what it reports, saves and evaluates."""

from typing import Any

import jax

from jaxgpt.model.cost import flops_per_token
from jaxgpt.runs.callbacks import make_hooks, replica_check, resolve_interval
from jaxgpt.runs.setup import TrainingSetup
from jaxgpt.runs.state import ResumePoint, save_state
from jaxgpt.runtime.settings import peak_flops
from jaxgpt.training.loop import Loop
from jaxgpt.training.metrics import MetricsLog
from jaxgpt.training.state import TrainState
from jaxgpt.training.step_reports import ADVICE, ReportSettings


def make_loop(setup: TrainingSetup, start: ResumePoint, log: MetricsLog) -> Loop:
    """Return the loop from a resume point to the end of the run."""
    config, num_steps = setup.config, setup.config.schedule.num_steps
    check_replicas = replica_check(setup, log)

    def save(step: int, state: TrainState, metadata: dict[str, Any]) -> None:
        if check_replicas is not None:
            check_replicas(step, state)
        save_state(setup, start, log, step, state, metadata)

    return Loop(
        step=setup.step,
        num_steps=num_steps,
        reports=_report_settings(setup, start),
        save_every=resolve_interval(config.checkpoint.every_steps, num_steps),
        save=save,
        wait=setup.checkpoints.wait,
        is_finite=setup.is_finite,
        hooks=make_hooks(setup, log, check_replicas),
        measures_start=config.measures_start,
        goodput=setup.goodput,
    )


def _report_settings(setup: TrainingSetup, start: ResumePoint) -> ReportSettings:
    config, tokens_per_step = setup.config, setup.config.batch.tokens_per_step
    return ReportSettings(
        num_steps=config.schedule.num_steps,
        every_steps=config.logging.every_steps,
        learning_rates=config.schedule.values(),
        tokens_per_step=tokens_per_step,
        flops_per_token=flops_per_token(
            config.model, setup.sources.tokenizer.vocab_size, config.batch.sequence_length
        ),
        peak_flops=_total_peak(),
        tokens_offset=start.tokens_offset(tokens_per_step),
        batch_offset=start.batch_offset,
        recovery=config.recovery,
        advice=_advice(start),
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
