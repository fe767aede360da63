"""`full-loop`: training as `train.py` does it, against its bare step on one batch."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxgpt.benchmarks.hardware_peak import describe_device
from jaxgpt.benchmarks.inputs.shapes import SHAPES, ShapeName
from jaxgpt.benchmarks.inputs.small_dataset import make_small_dataset
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import configclass
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset
from jaxgpt.model.gpt import Dtype
from jaxgpt.parallel.sharding import host_rows, on_mesh, to_devices
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.loop import make_loop
from jaxgpt.runs.setup import TrainingSetup, set_up_training
from jaxgpt.runs.state import ResumePoint, start_or_restore
from jaxgpt.runtime.settings import configure_runtime
from jaxgpt.stop_signal import StopSignal
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.loop import fit
from jaxgpt.training.metrics import LoggingConfig, MetricsLog, TrainingProgress
from jaxgpt.training.schedule import Constant
from jaxgpt.training.watchdog import Watchdog

# Steps of a round that are not timed: the first finds no step running, and the last is always saved
# and waited for.
_BEFORE, _AFTER = 2, 1


@configclass
class FullLoopBenchmark:
    """Reading, steps, logs, TensorBoard, saves and watchdog together, in tokens a second.

    Floor, and what is compared with: the same compiled step on one batch that lies on the device.
    Timed from one step's start to another's; the save is begun in the middle, so that writing it is
    within.
    """

    shape: ShapeName = "nanogpt-cpu"
    """Sizes of model and batch; the vocabulary is that of the dataset."""
    dtype: Dtype = "float32"
    """Type of activations and operands."""
    steps: int = 20
    """Training steps per round, with one save."""
    rounds: int = 3
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.steps < 2:
            raise ValueError("rounds must be at least 1, and steps 2")

    def run(self) -> Measurement:
        """Measure."""
        with tempfile.TemporaryDirectory() as name:
            return self._run(Path(name))

    def train_config(self, dataset: Path) -> TrainConfig:
        """Return the config of the run."""
        shape = SHAPES[self.shape]
        # All rounds, and as many bare ones, which also count.
        num_steps = 2 * (self.rounds + 1) * (self.steps + _BEFORE + _AFTER)
        return TrainConfig(
            model=shape.model(self.dtype),
            data=DataConfig(datasets=(WeightedDataset(path=str(dataset)),)),
            batch=BatchConfig(
                sequence_length=shape.sequence_length, global_batch_size=shape.batch_size
            ),
            schedule=Constant(num_steps=num_steps, warmup_share=0.0),
            checkpoint=CheckpointConfig(keep_latest=1, keep_best=0),
            logging=LoggingConfig(every_steps=1),
        )

    def _run(self, folder: Path) -> Measurement:
        dataset = make_small_dataset(folder / "data")
        config = self.train_config(dataset)
        run_dir = folder / "run"
        run_dir.mkdir()
        configure_runtime(config.runtime)
        goodput = GoodputTracker(run_dir)
        checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint)
        try:
            setup = set_up_training(config, run_dir, config.open_sources(), checkpoints, goodput)
            watchdog = Watchdog(config.watchdog, goodput, run_dir)
            with on_mesh(setup.mesh, config.sharding), watchdog, goodput.written():
                rounds = _Rounds(setup, self.steps)
                sides: dict[str, Callable[[], float]] = {
                    "jaxgpt": rounds.whole,
                    "bare step": rounds.bare,
                }
                measure_interleaved(sides, 1)
                rates = measure_interleaved(sides, self.rounds)
        finally:
            checkpoints.close()
        shape = SHAPES[self.shape]
        value, spread = rates["jaxgpt"]
        bare = rates["bare step"][0]
        return Measurement(
            measure="full-loop",
            value=value * shape.tokens_per_step,
            unit="tokens/s",
            floor=bare * shape.tokens_per_step,
            floor_is="the bare step on one batch",
            spread=(spread[0] * shape.tokens_per_step, spread[1] * shape.tokens_per_step),
            settings={
                "shape": self.shape,
                "dtype": self.dtype,
                "steps": self.steps,
                "saves": 1,
                "spread of the bare step": [
                    rate * shape.tokens_per_step for rate in rates["bare step"][1]
                ],
                **describe_device(),
            },
            versions=versions_of(["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"]),
            against=Baseline(
                name="bare step", value=bare * shape.tokens_per_step, ratio=value / bare
            ),
        )


class _Rounds:
    """A run that goes on from round to round, in the whole loop or by its bare step."""

    def __init__(self, setup: TrainingSetup, num_steps: int) -> None:
        self._setup = setup
        self._num_steps = num_steps
        self._state = start_or_restore(setup, None).state
        rows = setup.config.batch.global_batch_size
        self._batch = to_devices(setup.sources.batches.pick(0, range(rows)), setup.mesh, rows)

    def bare(self) -> float:
        """Return the steps per second of the bare step."""
        for _ in range(_BEFORE):
            self._state, _ = self._setup.step(self._state, self._batch)
        jax.block_until_ready(self._state)
        start = time.perf_counter()
        for _ in range(self._num_steps):
            self._state, _ = self._setup.step(self._state, self._batch)
        jax.block_until_ready(self._state)
        return self._num_steps / (time.perf_counter() - start)

    def whole(self) -> float:
        """Return the steps per second of the loop."""
        setup, first = self._setup, int(self._state.step)
        config, run_dir = setup.config, setup.run_dir
        last = first + _BEFORE + self._num_steps + _AFTER
        starts: list[float] = []

        def timed_step(*inputs: Any) -> Any:
            starts.append(time.perf_counter())
            return setup.step(*inputs)

        rows = config.batch.global_batch_size
        with (
            MetricsLog(run_dir, first, config.logging.tensorboard) as log,
            setup.sources.batches.iterate(first, host_rows(setup.mesh, rows)) as read,
            StopSignal() as stop,
        ):
            loop = make_loop(setup, ResumePoint(state=self._state, step=first), log)
            loop = dataclasses.replace(
                loop,
                step=timed_step,
                num_steps=last,
                reports=dataclasses.replace(loop.reports, num_steps=last),
                # In the middle of the round, and never again but at its end.
                save_every=first + _BEFORE + self._num_steps // 2,
                hooks=(),
            )
            batches = (to_devices(batch, setup.mesh, rows) for batch in read)
            progress = TrainingProgress(last, config.logging.progress_seconds, silent=True)
            self._state = fit(loop, self._state, batches, log, progress, stop)
        setup.checkpoints.wait()
        timed = starts[_BEFORE : _BEFORE + self._num_steps + 1]
        return self._num_steps / sum(b - a for a, b in itertools.pairwise(timed))
