"""`report.html` of a run: learning curves, scores, samples, data and machine.

One file that needs nothing from elsewhere, for screen and paper. What a run folder holds is read
in records.py; curves.py draws; description.py says what the run is made of; this file says what
came of it, and puts sections in order.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.reports.console import format_duration
from jaxgpt.reports.page import Section, Table, to_html
from jaxgpt.reports.plots import bar_chart
from jaxgpt.runs.report.curves import course_figures, learning_figures, mean_throughput
from jaxgpt.runs.report.description import describe_config, describe_data, describe_environment
from jaxgpt.runs.report.faults import describe_faults, describe_time
from jaxgpt.runs.report.records import RunFolder, read_run_folder
from jaxgpt.storage.durable import write_atomically
from jaxgpt.training.metrics import comparable_evaluations
from jaxgpt.training.overfitting import find_rise

HTML_NAME = "report.html"
_UNIFORM_BITS_PER_BYTE = 8.0


def write_run_report(run_dir: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
    """Write `run_dir/report.html` from what the folder holds, and return its path.

    Args:
        run_dir: a run folder, finished or not; what it lacks is named in the report.
        extra: what the folder does not hold, each part optional: `evaluation` (the object that
            `jaxgpt.eval --json` prints), `baseline` (bits per byte of the n-gram model; None: what
            the folder has of it) and
            `samples` (those that `jaxgpt.generate --json` prints).
    """
    run = read_run_folder(run_dir)
    extra = {"baseline": run.baseline, **(extra or {})}
    page = to_html(
        f"Run {run.directory.resolve().name}",
        _headline(run, extra),
        _sections(run, extra),
        subtitle=_subtitle(run),
    )
    write_atomically(run.directory / HTML_NAME, page)
    return run.directory / HTML_NAME


def _sections(run: RunFolder, extra: Mapping[str, Any]) -> list[Section]:
    baseline = extra["baseline"]
    parts = [
        _learning(run, baseline),
        _evaluation(run, extra.get("evaluation"), baseline),
        _samples(run, extra.get("samples", ())),
        _course(run),
        describe_time(run),
        describe_faults(run),
        *describe_data(run),
        describe_config(run),
        describe_environment(run),
    ]
    sections = [part for part in parts if part is not None]
    if run.missing:
        rows = [[sentence] for sentence in run.missing]
        sections.append(Section("Missing from this report", "", Table(("what",), rows)))
    return sections


def _headline(run: RunFolder, extra: Mapping[str, Any]) -> dict[str, str]:
    final = extra.get("evaluation") or (run.evaluations[-1] if run.evaluations else None)
    cards: dict[str, str] = {}
    if final and "bits_per_byte" in final:
        cards["bits per byte, held out"] = _figure(final["bits_per_byte"], ".3f")
    if extra.get("baseline"):
        cards["the same, n-gram model"] = f"{extra['baseline']:.3f}"
    if final:
        cards["loss, held out"] = _figure(final["loss"], ".3f")
        cards |= {
            f"{key.replace('_', ' ')}, held out": _figure(final[key], ".3f")
            for key in ("preference_accuracy", "accuracy", "macro_f1", "span_f1", "reward")
            if key in final
        }
    start = next((event for event in run.events if "num_parameters" in event), None)
    if start:
        cards["parameters"] = _short(start["num_parameters"])
    if run.steps:
        last = run.steps[-1]
        cards["steps"] = f"{last['step']:,}"
        cards["tokens read"] = _short(last["tokens"])
        if (epochs := _epochs(run)) is not None:
            cards["epochs"] = f"{epochs:.2f}"
        cards["time"] = format_duration(last["seconds"])
        cards["tokens a second"] = _short(mean_throughput(run.steps))
        if last.get("mfu") is not None:
            cards["of peak FLOP/s"] = f"{last['mfu']:.1%}"
    return cards


def _subtitle(run: RunFolder) -> str:
    """Return a line on the state of the run and its devices."""
    planned, last = run.config_at("schedule", "num_steps"), run.steps[-1] if run.steps else None
    if last is None:
        state = "No step is recorded yet"
    elif planned is None or last["step"] >= planned:
        state = f"Finished at step {last['step']:,}"
    else:
        state = f"At step {last['step']:,} of {planned:,}"
    devices = run.environment.get("devices", {})
    kinds = ", ".join(devices.get("device_kinds", ()))
    return f"{state}, on {devices['num_devices']} x {kinds}." if kinds else f"{state}."


def _learning(run: RunFolder, baseline: float | None) -> Section | None:
    figures = learning_figures(run.steps, run.evaluations, baseline)
    if not figures:
        return None
    text = (
        "Loss of the next token, and the same as bits per byte of text, which does not depend on "
        "the tokenizer. "
        if "bits_per_byte" in [*run.steps, *run.evaluations][0]
        else ""
    )
    text += "Faint: each record; strong: its running mean; dots: held-out data."
    rise = find_rise(run.evaluations)
    notice = f"Overfitting: {rise.describe()}." if rise else ""
    return Section("Learning", text, figures=figures, notice=notice)


def _epochs(run: RunFolder) -> float | None:
    """Return how often the training text was read; None for a mixture, or if it is not known."""
    splits = [manifest.get("splits", {}).get("train", {}) for manifest in run.manifests.values()]
    datasets = run.lineage.get("data", {}).get("datasets", ())
    if len(splits) != 1 or len(datasets) != 1 or not splits[0].get("num_tokens"):
        return None
    return run.steps[-1]["tokens"] / splits[0]["num_tokens"]


def _evaluation(
    run: RunFolder, evaluation: Mapping[str, Any] | None, baseline: float | None
) -> Section | None:
    """Return table rows, from the best-founded figure to the baselines."""
    if run.evaluations and "bits_per_byte" not in run.evaluations[-1]:
        return _evaluation_of_objective(run.evaluations)
    rows: list[list[str]] = []
    bars: dict[str, float | None] = {}
    if evaluation:
        name = f"this model, step {evaluation['step']:,}, whole {evaluation['split']} split"
        rows.append(_evaluation_row(name, evaluation))
        bars["this model"] = evaluation["bits_per_byte"]
    if run.evaluations:
        last = run.evaluations[-1]
        rows.append(_evaluation_row(f"during training, step {last['step']:,}", last))
        bars.setdefault("this model", last["bits_per_byte"])
        alike = comparable_evaluations(run.evaluations)
        best = min(alike, key=lambda record: record["loss"], default=last)
        if best is not last:
            rows.append(_evaluation_row(f"best during training, step {best['step']:,}", best))
    if not rows:
        return None
    if baseline is not None:
        rows.append(["n-gram model of bytes", f"{baseline:.4f}", "", "", ""])
        bars["n-gram model of bytes"] = baseline
        bars["every byte equally likely"] = _UNIFORM_BITS_PER_BYTE
    columns = ("held-out text", "bits per byte", "loss (nats)", "perplexity", "tokens")
    text = "Lower is better." + (
        " The n-gram model counts, on the same training text, what follows the last five bytes "
        "(interpolated Witten-Bell)."
        if baseline is not None
        else ""
    )
    shown = {
        name: value for name, value in bars.items() if value is not None and math.isfinite(value)
    }
    figure = bar_chart(shown, x_label="bits per byte", highlighted="this model")
    return Section(
        "Evaluation", text, Table(columns, rows), figure=figure if len(shown) > 1 else ""
    )


def _evaluation_of_objective(evaluations: Sequence[Mapping[str, Any]]) -> Section:
    """Return the first and the last figures of an objective that is no perplexity."""
    shown = [evaluations[0], *evaluations[1:][-1:]]
    names = [name for name in shown[-1] if name not in ("step", "eval_settings")]
    rows = [
        [name.replace("_", " "), *(_figure(each.get(name), ".4g") for each in shown)]
        for name in names
        if isinstance(shown[-1][name], int | float)
    ]
    columns = ("held-out examples", *(f"step {each['step']:,}" for each in shown))
    return Section("Evaluation", "Intervals (low to high) are 95% ones.", Table(columns, rows))


def _evaluation_row(name: str, result: Mapping[str, Any]) -> list[str]:
    return [
        name,
        _figure(result["bits_per_byte"], ".4f"),
        _figure(result["loss"], ".4f"),
        _figure(result["perplexity"], ".2f"),
        f"{result['tokens']:,}" if "tokens" in result else "",
    ]


def _figure(value: float | None, form: str) -> str:
    """Write a figure; metrics.jsonl has null for one that is not finite."""
    return "not finite" if value is None else format(value, form)


def _samples(run: RunFolder, final: Sequence[Mapping[str, Any]]) -> Section | None:
    """Return a section with the model's samples, newest first; older ones are folded away."""
    groups: dict[str, list[dict[str, str]]] = {}
    if final:
        groups["After training"] = [_sample(sample) for sample in final]
    for step, samples in sorted(run.samples.items(), reverse=True):
        groups[f"At step {step:,}"] = [_sample(sample) for sample in samples]
    if not groups:
        return None
    text = "Bold: the text that was given. The rest is the model's own."
    folded = frozenset(list(groups)[1:])
    return Section("What it writes", text, samples=groups, folded=folded)


def _sample(sample: Mapping[str, Any]) -> dict[str, str]:
    prompt, text = str(sample["prompt"]), str(sample["text"])
    return {"location": "", "detail": "", "prompt": prompt, "text": text}


def _course(run: RunFolder) -> Section | None:
    figures = course_figures(run.steps)
    return Section("Course of the run", figures=figures) if figures else None


def _short(count: float) -> str:
    """Abbreviate a number: 1234567 -> "1.23 M"."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= limit:
            return f"{count / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return f"{count:,.0f}"
