"""Lines for people out of the figures of an evaluation, which JSON has in full."""

import json
from collections.abc import Mapping
from typing import Any

from jaxgpt.reports.console import format_count

_NESTED = ("tasks", "task_settings", "core", "difference", "harness")


def result_text(result: Mapping[str, Any], as_json: bool) -> str:
    """Return what is printed: one JSON object, or one line for each figure."""
    # Figures of lm-evaluation-harness may be of NumPy.
    return json.dumps(result, default=float) if as_json else "\n".join(_lines(result))


def _lines(result: Mapping[str, Any]) -> list[str]:
    lines = [f"{key:16} {_text(value)}" for key, value in result.items() if key not in _NESTED]
    for name, metrics in result.get("tasks", {}).items():
        settings = result["task_settings"][name]
        shots = format_count(settings["num_shots"], "shot")
        about = [shots, f"BOS {'on' if settings['bos'] else 'off'}"]
        if settings["chance"] is not None:
            about.append(f"chance {settings['chance']:.3f}")
        ours = settings["prompt_form"]
        theirs = settings.get("against_prompt_form", ours)
        if ours != theirs:
            about.append(f"asked in {ours}, against {theirs}")
        lines.append(f"{name} ({settings['form']}; {', '.join(about)})")
        for metric, figure in metrics.items():
            lines.append(f"  {metric:24} {figure['value']:.4f}{_error(figure)}, n = {figure['n']}")
            if difference := result.get("difference", {}).get(name, {}).get(metric):
                low, high = difference["low"], difference["high"]
                lines.append(
                    f"  {'difference':24} {difference['value']:+.4f}, 95% {low:+.4f} to {high:+.4f}"
                )
    for name, figures in result.get("harness", {}).get("results", {}).items():
        lines.append(f"{name} (lm-evaluation-harness {result['harness']['lm_eval']})")
        lines += [f"  {key:24} {_text(value)}" for key, value in figures.items() if key != "alias"]
    if core := result.get("core"):
        if core["value"] is None:
            lines.append(f"{'core':16} not known; missing: {', '.join(core['missing'])}")
        else:
            lines.append(f"{'core':16} {core['value']:.4f} ± {core['stderr']:.4f}")
    return lines


def _error(figure: Mapping[str, Any]) -> str:
    if "low" in figure:
        about = f", {figure['signature']}" if "signature" in figure else ""
        return f", 95% {figure['low']:.4f} to {figure['high']:.4f}{about}"
    return "" if figure["stderr"] is None else f" ± {figure['stderr']:.4f}"


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
