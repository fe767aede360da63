"""`gpu`: everything that is to be known of one GPU, within ten minutes, into a folder of JSON.

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
from jaxgpt.durable import write_json
from jaxgpt.errors import ConfigError

_TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
_124M = ("train-step", "--shape", "gpt2-124m", "--sequence-length", "1024", "--dtype", "bfloat16")
_350M = ("train-step", "--shape", "gpt2-350m", "--dtype", "bfloat16", "--steps", "5")
_1_3B = ("train-step", "--shape", "gpt-1.3b", "--dtype", "bfloat16", "--steps", "5")
_DECODE = ("decode", "--dtype", "bfloat16", "--new-tokens", "256", "--rounds", "3")
_ATTENTION = ("attention", "--dtype", "bfloat16", "--sequence-length", "1024", "--batch-size", "32")
_TORCH = ("--against", "pytorch", "--rounds", "3")

# By name, the most telling first: what time is left for the last depends on how long these compile.
MEASURES: Mapping[str, Sequence[str]] = {
    "train-124m-compile": (*_124M, "--batch-size", "32", *_TORCH, "--mode", "compile"),
    "train-124m-cudnn": (*_124M, "--batch-size", "32", *_TORCH, "--mode", "compile-cudnn"),
    "decode-124m": (*_DECODE, "--against", "transformers"),
    "train-1.3b": (*_1_3B, "--batch-size", "4"),
    "train-350m": (*_350M, "--batch-size", "16"),
    "decode-1.3b": (*_DECODE, "--shape", "gpt-1.3b"),
    "attention": (*_ATTENTION, *_TORCH),
    "attention-packed": (*_ATTENTION, "--document", "256"),
    "train-124m-large": (*_124M, "--batch-size", "64"),
    "train-124m-packed": (*_124M, "--batch-size", "32", "--document", "256"),
    "loss-head": ("loss-head", "--dtype", "bfloat16", "--batch-size", "16"),
    "decode-124m-64": (*_DECODE, "--batch-size", "64"),
}


@dataclass(frozen=True)
class SuiteReport:
    """What a suite found: by name a measure's JSON, or {"error": ...}."""

    folder: Path
    found: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """All of it, as an object of JSON."""
        return {"measure": "gpu", "folder": str(self.folder), "measures": dict(self.found)}

    def to_text(self) -> str:
        """A line for each measure."""
        width = max(map(len, self.found))
        return "\n".join(f"{name:{width}}  {_line(one)}" for name, one in self.found.items())


@configclass
class GpuBenchmark:
    """Train steps of 124M, 350M and 1.3B beside PyTorch and the matrix products, decoding,
    attention and loss head, in bfloat16 on the GPU here; each measure's JSON goes into a folder."""

    output: str = "gpu-benchmark"
    """Folder; made if need be."""
    only: tuple[str, ...] = ()
    """Names of measures; empty: all."""
    seconds: float = 600.0
    """Time for all of them; those that are left then are not begun."""
    measure_seconds: float = 150.0
    """Time for one, after which it is given up."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.seconds, self.measure_seconds) <= 0:
            raise ValueError("seconds and measure_seconds must be positive")
        if unknown := set(self.only) - MEASURES.keys():
            raise ValueError(
                f"no measure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}"
            )

    def run(self) -> SuiteReport:
        """Measure.

        Raises:
            ConfigError: there is no GPU that JAX can use.
        """
        backend = _backend()
        if backend != "gpu":
            raise ConfigError(
                f"the measure gpu needs an NVIDIA GPU, and JAX finds only {backend}: "
                "pip install 'jaxgpt[cuda12]' where there is one"
            )
        chosen = {name: MEASURES[name] for name in self.only or MEASURES}
        return run_suite(chosen, Path(self.output), self.seconds, self.measure_seconds)


def run_suite(
    measures: Mapping[str, Sequence[str]],
    folder: Path,
    seconds: float,
    measure_seconds: float,
) -> SuiteReport:
    """Run measures one after the other, each in a process; NAME.json of each goes into `folder`.

    Args:
        measures: by name, the arguments of tools/benchmark.py.
        folder: made if need be.
        seconds: for all; those that are left then are not begun.
        measure_seconds: for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    found: dict[str, Any] = {}
    for name, arguments in measures.items():
        left = min(measure_seconds, end - time.monotonic())
        if left > 0:
            found[name] = _measure(arguments, left)
        else:
            found[name] = {"error": f"not begun: the {seconds:g} seconds were over"}
        write_json(folder / f"{name}.json", found[name])
        # Whoever waits sees how far it is.
        print(f"{name}: {_line(found[name])}", file=sys.stderr, flush=True)
    return SuiteReport(folder, found)


def _measure(arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    # A process that has ended early, or been given up, must leave no memory taken: PyTorch's side
    # of it is in the same group.
    process = subprocess.Popen(
        [sys.executable, str(_TOOL), *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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


def _backend() -> str:
    """What JAX computes on, asked in a process of its own: this one must take no memory."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "nothing"


def _line(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return found["error"]
    text = f"{found['value']:,.0f} {found['unit']}, {found['floor_ratio']:.1%} of the floor"
    against = found.get("against")
    return f"{text}, {against['ratio']:.2f}x {against['name']}" if against else text
