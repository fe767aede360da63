"""`startup`: from the command to the end of the first step, with and without a compile cache."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jaxgpt.benchmarks.inputs.small_dataset import make_small_dataset
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.config import configclass
from jaxgpt.errors import JaxgptError

_CONFIGS = Path(__file__).parents[2] / "configs"
_POLL_SECONDS = 0.005
_TIMEOUT_SECONDS = 600
_SIZES = {
    "quickstart": ["--batch.global-batch-size", "4", "--batch.sequence-length", "64"],
    # GPT-2's vocabulary, whatever the tokenizer has.
    "gpt2-124m": [
        *("--batch.global-batch-size", "2", "--batch.sequence-length", "64"),
        *("--model.vocab-multiple", "50304", "--model.compute-dtype", "float32"),
    ],
}
_FILES = {"quickstart": "quickstart.py", "gpt2-124m": "base.py"}


@configclass
class StartupBenchmark:
    """`python -m jaxgpt.train` until its first step is done, in starts a minute.

    Warm: with the compiled programs of an earlier start. Floor: a process that imports JAX and asks
    for its devices.
    """

    shape: Literal["quickstart", "gpt2-124m"] = "quickstart"
    """Config to start, in small batches: configs/quickstart.py or configs/base.py."""
    rounds: int = 3
    """Number of starts with a cache, and of starts without one."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError("rounds must be at least 1")

    def run(self) -> Measurement:
        """Measure.

        Raises:
            JaxgptError: a run ended before its first step.
        """
        with tempfile.TemporaryDirectory() as name:
            return self._run(Path(name))

    def _run(self, folder: Path) -> Measurement:
        dataset = make_small_dataset(folder / "data", max_bytes=1 << 19, vocab_size=512)
        command = _command(self.shape, dataset, folder / "run")
        cache = folder / "cache"

        def start(with_cache: bool) -> float:
            if not with_cache:
                shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(folder / "run", ignore_errors=True)
            return 60 / _seconds_to_first_step(command, folder / "run", cache)

        # The cold start comes first and leaves the programs for the warm one.
        sides: dict[str, Callable[[], float]] = {
            "cold": lambda: start(False),
            "jaxgpt": lambda: start(True),
        }
        floor = 60 / _median_seconds("import jax; jax.devices()")
        rates = measure_interleaved(sides, self.rounds)
        value, spread = rates["jaxgpt"]
        cold = rates["cold"][0]
        return Measurement(
            measure="startup",
            value=value,
            unit="starts/minute",
            floor=floor,
            floor_is="a process that imports JAX",
            spread=spread,
            settings={
                "config": f"configs/{_FILES[self.shape]}",
                "warm seconds": 60 / value,
                "cold seconds": 60 / cold,
                "warm / cold": cold / value,
                "import seconds": _median_seconds("import jaxgpt.train"),
            },
            versions=versions_of(["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"]),
            against=Baseline(name="without a cache", value=cold, ratio=value / cold),
        )


def _command(shape: str, dataset: Path, run_dir: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "jaxgpt.train", "--config", str(_CONFIGS / _FILES[shape])),
        *("--data", str(dataset), "--run-dir", str(run_dir), "--logging.every-steps", "1"),
        *("--batch.num-micro-batches", "1", *_SIZES[shape]),
    ]


def _seconds_to_first_step(command: Sequence[str], run_dir: Path, cache: Path) -> float:
    """Start a run, wait for the record of its first step, end it."""
    metrics = run_dir / "metrics.jsonl"
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    errors.seek(0)
                    last = (errors.read().strip().splitlines() or ["without a message"])[-1]
                    raise JaxgptError(f"the run ended before its first step: {last}")
                if time.perf_counter() - start > _TIMEOUT_SECONDS:
                    raise JaxgptError(f"no step within {_TIMEOUT_SECONDS} seconds")
                time.sleep(_POLL_SECONDS)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def _median_seconds(code: str) -> float:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(3))
