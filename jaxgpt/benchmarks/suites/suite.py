"""Several measures one after the other, into a folder of JSON, with a figure of them all.

Each measure is a process of its own, so that none finds another's memory taken; one that fails or
takes too long is noted, and the rest goes on.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.reports.plots import bar_chart
from jaxgpt.storage.durable import write_json

_TOOL = Path(__file__).parents[3] / "tools" / "benchmark.py"


@dataclass(frozen=True)
class SuiteReport:
    """Results of a suite: by name a measure's JSON, or {"error": ...}."""

    suite: str
    folder: Path
    found: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return the whole result as a JSON object."""
        return {"measure": self.suite, "folder": str(self.folder), "measures": dict(self.found)}

    def to_text(self) -> str:
        """Return a line for each measure."""
        width = max(map(len, self.found))
        return "\n".join(f"{name:{width}}  {_line(one)}" for name, one in self.found.items())

    def figures(self) -> dict[str, str]:
        """Return SVGs by name: `ratios` to other libraries, `floors` against the machine."""
        done = {name: one for name, one in self.found.items() if "error" not in one}
        ratios = {
            f"{name}, {one['against']['name']}": one["against"]["ratio"]
            for name, one in done.items()
            if one.get("against")
        }
        floors = {f"{name}, {one['floor_is']}": one["floor_ratio"] for name, one in done.items()}
        charts = {
            "ratios": (ratios, "times as fast"),
            "floors": (floors, "share of the floor's rate"),
        }
        return {
            name: bar_chart(values, x_label=label, level=1.0)
            for name, (values, label) in charts.items()
            if values
        }


@configclass
class Suite:
    """Base of the suites."""

    output: str
    """Output folder, made if it does not exist."""
    only: tuple[str, ...] = ()
    """Names of the measures to run; empty: all."""
    seconds: float = 600.0
    """Time limit for all measures, in seconds; no measure begins after it."""
    measure_seconds: float = 150.0
    """Time limit for one measure, in seconds; a slower one is given up."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.seconds, self.measure_seconds) <= 0:
            raise ValueError("seconds and measure_seconds must be positive")
        if unknown := set(self.only) - self.measures.keys():
            raise ValueError(
                f"no measure {', '.join(sorted(unknown))}; there are {', '.join(self.measures)}"
            )

    @property
    def name(self) -> str:
        """Name of the suite."""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    @property
    def measures(self) -> Mapping[str, Sequence[str]]:
        """Arguments of tools/benchmark.py, by name of the measure."""
        raise NotImplementedError(f"{type(self).__name__} has no measures")

    def run(self) -> SuiteReport:
        """Measure."""
        chosen = {name: self.measures[name] for name in self.only or self.measures}
        return run_suite(self.name, chosen, Path(self.output), self.seconds, self.measure_seconds)


def run_suite(
    name: str,
    measures: Mapping[str, Sequence[str]],
    folder: Path,
    seconds: float,
    measure_seconds: float,
) -> SuiteReport:
    """Run measures one after the other, each in a process.

    NAME.json of each goes into `folder`, and figures of those that did not fail.

    Args:
        name: of the suite.
        measures: by name, the arguments of tools/benchmark.py.
        folder: made if need be.
        seconds: for all; those that are left then are not begun.
        measure_seconds: for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    found: dict[str, Any] = {}
    for measure, arguments in measures.items():
        left = min(measure_seconds, end - time.monotonic())
        if left > 0:
            found[measure] = _measure(arguments, left)
        else:
            found[measure] = {"error": f"not started: the {seconds:g} seconds had passed"}
        write_json(folder / f"{measure}.json", found[measure])
        # Whoever waits sees how far it is.
        print(f"{measure}: {_line(found[measure])}", file=sys.stderr, flush=True)
    report = SuiteReport(name, folder, found)
    for figure_name, figure in report.figures().items():
        (folder / f"{figure_name}.svg").write_text(figure, "utf-8")
    return report


def _measure(arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    # A process that has ended early, or been given up, must leave no memory taken: PyTorch's side
    # of it is in the same group.
    process = subprocess.Popen(
        [sys.executable, str(_TOOL), *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"given up after {seconds:.0f} seconds"}
    finally:
        _kill_group(process)
    if process.returncode:
        return {"error": (errors.strip().splitlines() or [f"exit {process.returncode}"])[-1]}
    return json.loads(output.strip().splitlines()[-1])


def _kill_group(process: "subprocess.Popen[str]") -> None:
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()


def _line(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return found["error"]
    text = f"{found['value']:,.1f} {found['unit']}, {found['floor_ratio']:.1%} of the floor"
    against = found.get("against")
    return f"{text}, {against['ratio']:.2f}x {against['name']}" if against else text
