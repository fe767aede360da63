"""Sections of a run report on faults, what they cost, and where the time went."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.reports.page import Section, Table
from jaxgpt.runs.report.records import RunFolder

_PURPOSES = {
    "step": "steps that brought the run forward",
    "replay": "steps done again",
    "data_wait": "waiting for data",
    "eval": "evaluation and samples",
    "save": "waiting for saves",
    "compile": "compiling the step",
    "restore": "making or reading the state",
    "init": "starting",
    "report": "writing the report",
    "down": "between two processes",
}
_SHOWN = {
    "skip": "update skipped",
    "rollback": "went back",
    "resume": "resumed",
    "hang": "hung",
    "stopped": "stopped by a signal",
    "quarantine": "checkpoint set aside",
    "save_failed": "save failed",
    "replicas_differ": "replicas differed",
    "diverged": "diverged",
}
_MOST = 50


def describe_time(run: RunFolder) -> Section | None:
    """Describe the seconds by purpose over all processes of the run, largest first."""
    seconds = {name: float(run.goodput.get(name, 0.0)) for name in _PURPOSES}
    total = sum(seconds.values())
    if not total:
        return None
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    rows = [
        [_PURPOSES[name], f"{value:,.1f}", f"{value / total:.1%}"]
        for name, value in ordered
        if value
    ]
    rows.append(["all", f"{total:,.1f}", "100.0%"])
    text = (
        f"Goodput: {seconds['step'] / total:.1%} of the time since the run was first started went "
        "into steps that brought it forward."
    )
    return Section("Time", text, Table(("spent on", "seconds", "share"), rows))


def describe_faults(run: RunFolder) -> Section | None:
    """Describe the events that are not the ordinary course of a run, in order."""
    faults = [event for event in run.events if event.get("event") in _SHOWN]
    if not faults:
        return None
    rows = [
        [f"{event['step']:,}", _time(event), _SHOWN[event["event"]], _details(event)]
        for event in faults[-_MOST:]
    ]
    text = f"The last {_MOST} of {len(faults)}." if len(faults) > _MOST else ""
    table = Table(("step", "time (UTC)", "what", "details"), rows, frozenset({1, 2, 3}))
    return Section("Faults", text, table)


def _time(event: Mapping[str, Any]) -> str:
    """Return the time to the second; runs of earlier versions did not record it."""
    return str(event.get("time", ""))[:19].replace("T", " ")


def _details(event: Mapping[str, Any]) -> str:
    hidden = ("event", "step", "time", "num_parameters", "device_kinds")
    if "reason" in event:  # It has these figures.
        hidden += ("loss", "grad_norm", "loss_limit", "grad_norm_limit")
    shown = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in event.items()
        if key not in hidden
    ]
    return ", ".join(shown)
