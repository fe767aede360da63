"""`loader`: tokens per second that batches are read with, against what a fast device consumes."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jaxgpt.benchmarks.inputs.small_dataset import make_small_dataset
from jaxgpt.benchmarks.inputs.texts import memory_copy_rate
from jaxgpt.benchmarks.measurement import Measurement, measure_interleaved, versions_of
from jaxgpt.config import configclass
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset, open_training_batches

# What a 124M model takes on one fast GPU.
_CONSUMED = 600_000
# Five arrays of four bytes: see `Batch`.
_BYTES_PER_TOKEN = 20


@configclass
class LoaderBenchmark:
    """Batches as training reads them, documents masked, one thread ahead; in tokens a second.

    The files are in the page cache after the first round.
    """

    sequence_length: int = 1024
    """Tokens per row."""
    batch_size: int = 120
    """Rows per batch."""
    batches: int = 20
    """Batches per round."""
    max_bytes: int = 8 << 20
    """Most bytes of text in the dataset."""
    rounds: int = 5
    """Number of rounds."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        least = (self.sequence_length, self.batch_size, self.batches, self.max_bytes, self.rounds)
        if min(least) < 1:
            raise ValueError("every number must be at least 1")

    def run(self) -> Measurement:
        """Measure."""
        with tempfile.TemporaryDirectory() as name:
            dataset = make_small_dataset(Path(name) / "data", self.max_bytes)
            return self._run(str(dataset))

    def _run(self, dataset: str) -> Measurement:
        batch = BatchConfig(sequence_length=self.sequence_length, global_batch_size=self.batch_size)
        data = DataConfig(datasets=(WeightedDataset(path=dataset),))
        source = open_training_batches(data, batch, seed=0)
        num_tokens = self.batches * self.batch_size * self.sequence_length
        place = 0

        def rate() -> float:
            nonlocal place
            start = time.perf_counter()
            with source.iterate(place) as batches:
                for _ in range(self.batches):
                    next(batches)
            place += self.batches
            return num_tokens / (time.perf_counter() - start)

        rate()
        sides: dict[str, Callable[[], float]] = {"jaxgpt": rate}
        value, spread = measure_interleaved(sides, self.rounds)["jaxgpt"]
        return Measurement(
            measure="loader",
            value=value,
            unit="tokens/s",
            floor=memory_copy_rate() / _BYTES_PER_TOKEN,
            floor_is="copying the batches in memory",
            spread=spread,
            settings={
                "sequence_length": self.sequence_length,
                "batch_size": self.batch_size,
                "tokens in the dataset": source.tokens_per_epoch,
                f"times a step of {_CONSUMED:,} tokens/s": value / _CONSUMED,
            },
            versions=versions_of(["numpy", "grain"]),
        )
