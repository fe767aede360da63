"""The curves of a run report: from records of metrics.jsonl to figures.

Rates are sums over sums: tokens of several records over their seconds, so that a record that was
timed badly moves them no more than its time is worth.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.reports.plots import Line, line_chart, running_mean

_Records = Sequence[Mapping[str, Any]]
# The first part of a run, when losses fall steeply, does not decide the range of the axis.
_STEEP_SHARE = 0.05


def learning_figures(steps: _Records, evaluations: _Records, baseline: float | None) -> list[str]:
    """Plot loss, and what else falls or rises in learning, over steps, with held-out values.

    Args:
        steps: records of steps; those of an objective are in `figures` of each.
        evaluations: of held-out data.
        baseline: bits per byte of a model that needs no training; None: there is none.
    """
    figures = []
    steps = [{**record, **record.get("figures", {})} for record in steps]
    unit = " (nats per token)" if _series(steps, "bits_per_byte")[0] else ""
    for key, label in (
        ("loss", f"loss{unit}"),
        ("bits_per_byte", "bits per byte"),
        ("old_text_loss", "loss of the old text"),
        ("divergence_from_teacher", "divergence from the teacher (nats per token)"),
        ("preference_accuracy", "preference accuracy"),
        ("reward_margin", "margin of rewards"),
        ("span_f1", "F1 of spans"),
        ("token_accuracy", "share of tokens with the right tag"),
        ("exact_match", "share of texts with the right labels"),
        ("reward", "reward of answers"),
        ("groups_without_variance", "share of groups without variance"),
        ("truncated", "share of answers that are cut off"),
        ("answer_tokens", "tokens of an answer"),
        ("entropy", "entropy (nats per token)"),
        ("drift", "difference of log-probabilities"),
    ):
        x, y = _series(steps, key)
        held_out_x, held_out_y = _series(evaluations, key)
        if not x and not held_out_x:
            continue
        held_out = Line(name="held out", x=held_out_x, y=held_out_y, marked=True, color=1)
        levels = {"n-gram model": baseline} if key == "bits_per_byte" and baseline else {}
        lines = [*_with_mean(x, y, "training"), *([held_out] if held_out_x else [])]
        top = _top([*x, *held_out_x], [*y, *held_out_y], [*levels.values()])
        figures.append(_small_chart(lines, label, levels, top))
    return figures


def course_figures(steps: _Records) -> list[str]:
    """Plot learning rate, gradient norm, throughput, and time spent waiting for data."""
    if not steps:
        return []
    x, y = _series(steps, "learning_rate")
    figures = [_small_chart([Line(name="", x=x, y=y)], "learning rate", from_zero=True)]
    x, y = _series(steps, "grad_norm")
    figures.append(
        _small_chart(_with_mean(x, y, ""), "gradient norm", y_top=_top(x, y), from_zero=True)
    )
    x, seconds, tokens, waits = _timings(steps)
    seconds = _moving_sums(seconds)
    for values, label, factor in (
        (tokens, "tokens a second", 1.0),
        (waits, "waiting for data (% of the time)", 100.0),
    ):
        sums = zip(_moving_sums(values), seconds, strict=True)
        rates = [factor * part / whole if whole else math.nan for part, whole in sums]
        figures.append(_small_chart([Line(name="", x=x, y=rates)], label, from_zero=True))
    return figures


def mean_throughput(steps: _Records) -> float:
    """Return tokens per second over all recorded steps, without evaluations and saves."""
    _, seconds, tokens, _ = _timings(steps)
    return sum(tokens) / sum(seconds) if sum(seconds) else 0.0


def _small_chart(
    lines: Sequence[Line],
    y_label: str,
    levels: Mapping[str, float] | None = None,
    y_top: float | None = None,
    from_zero: bool = False,
) -> str:
    return line_chart(
        lines,
        x_label="step",
        y_label=y_label,
        levels=levels,
        y_top=y_top,
        from_zero=from_zero,
        width_inches=4.2,
        height_inches=2.6,
    )


def _timings(steps: _Records) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return step, seconds, tokens and seconds waited of each record that has a rate."""
    x: list[int] = []
    seconds: list[float] = []
    tokens: list[float] = []
    waits: list[float] = []
    before = 0
    for record in steps:
        number, before = record["tokens"] - before, record["tokens"]
        # Versions without a counter let it fall where steps became smaller.
        if record.get("tokens_per_second") and number > 0:
            x.append(record["step"])
            tokens.append(number)
            seconds.append(number / record["tokens_per_second"])
            waits.append(record.get("data_wait_seconds") or 0.0)
    return x, seconds, tokens, waits


def _series(records: _Records, key: str) -> tuple[list[int], list[float]]:
    pairs = [(r["step"], float(r[key])) for r in records if r.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _with_mean(x: Sequence[int], y: Sequence[float], name: str) -> list[Line]:
    """Return faint values and their running mean; a few values alone are returned as they are."""
    if len(x) < 20:
        return [Line(name=name, x=x, y=y, color=0)] if x else []
    mean = running_mean(y, max(5, len(y) // 30))
    return [Line(name="", x=x, y=y, faint=True, color=0), Line(name=name, x=x, y=mean, color=0)]


def _moving_sums(values: Sequence[float]) -> list[float]:
    """Sum, for each value, the twentieth of all values around it, as many on both sides."""
    width = min(len(values), max(3, len(values) // 20))
    starts = (min(max(0, i - width // 2), len(values) - width) for i in range(len(values)))
    return [sum(values[start : start + width]) for start in starts]


def _top(x: Sequence[int], y: Sequence[float], levels: Sequence[float] = ()) -> float | None:
    """Return an axis limit that leaves out the steep beginning only; None: no limit."""
    steep = _STEEP_SHARE * max(x, default=0)
    shown = [b for a, b in zip(x, y, strict=True) if a > steep and math.isfinite(b)]
    return 1.05 * max([*shown, *levels]) if len(shown) > 10 else None
