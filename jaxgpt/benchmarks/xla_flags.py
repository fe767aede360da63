"""`flags`: the train step with and without flags of XLA, each in a process of its own.

Nothing in training sets what wins here: a flag that is faster on one machine and version of XLA is
slower on the next. Who wants one sets `XLA_FLAGS` for their runs.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jaxgpt.benchmarks.inputs.shapes import ShapeName
from jaxgpt.benchmarks.measurement import Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.train_step import TrainStepBenchmark
from jaxgpt.config import configclass, to_json
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.model.gpt import Dtype

# Of jaxlib 0.10's CPU compiler; none of them may change what is computed beyond rounding.
CPU_FLAGS = (
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_cpu_use_onednn=true",
    "--xla_cpu_use_xnnpack=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_use_multi_output_fusion=true",
    "--xla_cpu_enable_concurrency_optimized_scheduler=true",
    "--xla_cpu_prefer_vector_width=512",
    "--xla_cpu_copy_insertion_use_region_analysis=true",
)
_NONE = "no flag"
# Of first losses, relative: reordered sums in bfloat16 differ by less.
_SAME = 1e-2


@configclass
class FlagsBenchmark:
    """The train step of `train-step`, once for each flag of XLA and once without; by turns.

    A flag that this XLA does not know, and one that changes the loss, is dropped with a line. The
    figure is the fastest that is left; floor: without a flag.
    """

    flags: tuple[str, ...] = CPU_FLAGS
    """XLA flags to try; several in one string are tried together."""
    shape: ShapeName = "nanogpt-cpu"
    """Sizes of model and batch."""
    dtype: Dtype = "float32"
    """Type of activations and operands."""
    batch_size: int | None = None
    """Rows per step; None: those of the shape."""
    steps: int = 3
    """Training steps per round."""
    rounds: int = 3
    """Rounds of each flag."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.steps, self.rounds) < 1:
            raise ValueError("steps and rounds must be at least 1")
        for flag in self.flags:
            if not all(word.startswith("--xla") for word in flag.split()) or not flag.strip():
                raise ValueError(f"{flag!r} is not an XLA flag; those begin with --xla")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            UsageError: no flag is left to be measured.
            JaxgptError: the step fails without any flag.
        """
        step = TrainStepBenchmark(
            shape=self.shape, dtype=self.dtype, batch_size=self.batch_size, steps=self.steps
        )
        with contextlib.ExitStack() as stack:
            children, dropped = self._start(step, stack)
            num_tokens = self.steps * step.sizes().tokens_per_step
            sides: dict[str, Callable[[], float]] = {
                name: partial(child.rate, num_tokens) for name, child in children.items()
            }
            rates = measure_interleaved(sides, self.rounds)
        plain, (_, plain_high) = rates.pop(_NONE)
        best = max(rates, key=lambda name: rates[name][0])
        return Measurement(
            measure="flags",
            value=rates[best][0],
            unit="tokens/s",
            floor=plain,
            floor_is=_NONE,
            spread=rates[best][1],
            settings={
                "fastest": best,
                **{
                    name: f"{rate / plain:.3f} ({low / plain:.3f} to {high / plain:.3f})"
                    + (", wins" if low > plain_high else "")
                    for name, (rate, (low, high)) in rates.items()
                },
                **{name: f"dropped: {why}" for name, why in dropped.items()},
                "shape": self.shape,
                "dtype": self.dtype,
                "visible_cpus": len(os.sched_getaffinity(0)),
            },
            versions=versions_of(["jax", "jaxlib"]),
        )

    def _start(
        self, step: TrainStepBenchmark, stack: contextlib.ExitStack
    ) -> tuple[dict[str, "_Child"], dict[str, str]]:
        """Start the child processes one after the other; return them, and why others are not."""
        children, dropped, plain = {}, {}, [0.0]
        for flag in (_NONE, *self.flags):
            try:
                child = stack.enter_context(_started("" if flag == _NONE else flag, step))
            except JaxgptError as error:
                if flag == _NONE:
                    raise
                dropped[flag] = str(error)
                print(f"{flag}: {error}", file=sys.stderr, flush=True)
                continue
            if flag == _NONE:
                plain = child.losses
            if any(
                not abs(ours - theirs) <= _SAME * abs(theirs)
                for ours, theirs in zip(child.losses, plain, strict=True)
            ):
                dropped[flag] = f"the loss is {child.losses[-1]:.4f}, not {plain[-1]:.4f}"
                print(f"{flag}: {dropped[flag]}", file=sys.stderr, flush=True)
                continue
            children[flag] = child
        if len(children) == 1:
            raise UsageError("none of the flags can be measured; give others with --flags")
        return children, dropped


class _Child:
    """A process that has compiled the step, and waits to be asked for a round."""

    def __init__(self, process: "subprocess.Popen[str]", step: TrainStepBenchmark) -> None:
        self._process = process
        self.losses: list[float] = self._ask(to_json(step, indent=None))["losses"]

    def rate(self, num_tokens: int) -> float:
        """Return the tokens per second of a round."""
        return num_tokens / self._ask("round")["seconds"]

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            print(question, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self._process.stderr.read()
            if "Unknown flag" in said:
                raise JaxgptError("unknown to this XLA")
            last = (said.strip().splitlines() or ["without a message"])[-1]
            raise JaxgptError(f"the process ended: {last}")
        return json.loads(line)


@contextlib.contextmanager
def _started(flag: str, step: TrainStepBenchmark) -> Iterator[_Child]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxgpt.benchmarks.xla_flags_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"XLA_FLAGS": flags},
        encoding="utf-8",
    )
    try:
        yield _Child(process, step)
    finally:
        process.kill()
        process.communicate()
