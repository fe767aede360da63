"""`build`: input files -> a finished dataset."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jaxgpt.benchmarks.inputs.texts import file_copy_rate, inputs_or_default
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.config import configclass
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.filters.config import Profile, with_profile
from jaxgpt.corpus.readers.sources import SourcesConfig
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer


@configclass
class BuildBenchmark:
    """Input files to a finished dataset, all stages; in documents read a second by the clock."""

    input: tuple[str, ...] = ()
    """Files and folders, as for tools/build_dataset.py; by default the Python standard library."""
    profile: Profile = "none"
    """Profile of the filters."""
    vocab_size: int = 16384
    """Vocabulary size of the tokenizer, which is trained in every build."""
    workers: int = 2
    """Number of processes."""
    against: Literal["nothing", "one-process"] = "nothing"
    """Side to compare with. one-process: the same build with one worker."""
    rounds: int = 3
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.workers, self.rounds) < 1:
            raise ValueError("workers and rounds must be at least 1")
        if self.against == "one-process" and self.workers == 1:
            raise ValueError("against = 'one-process' needs more than one worker")

    def run(self) -> Measurement:
        """Measure."""
        with tempfile.TemporaryDirectory() as name:
            return self._run(Path(name))

    def _run(self, folder: Path) -> Measurement:
        builds = _Builds(self, folder)
        sides: dict[str, Callable[[], float]] = {"jaxgpt": lambda: builds.rate(self.workers)}
        if self.against == "one-process":
            sides["one-process"] = lambda: builds.rate(1)
        rates = measure_interleaved(sides, self.rounds)
        value, spread = rates["jaxgpt"]
        baseline = None
        if self.against in rates:
            theirs = rates[self.against][0]
            baseline = Baseline(name=self.against, value=theirs, ratio=value / theirs)
        bytes_per_document = builds.num_bytes / builds.num_documents
        return Measurement(
            measure="build",
            value=value,
            unit="documents/s",
            floor=file_copy_rate(folder, builds.num_bytes) / bytes_per_document,
            floor_is="writing the text to disk once",
            spread=spread,
            settings={
                "profile": self.profile,
                "documents": builds.num_documents,
                "bytes": builds.num_bytes,
                "workers": self.workers,
            },
            versions=versions_of(["sentencepiece", "numpy", "pyarrow", "datasketch"]),
            against=baseline,
        )


class _Builds:
    """One build after the other.

    Attributes:
        num_documents, num_bytes: what the last one read.
    """

    def __init__(self, benchmark: BuildBenchmark, folder: Path) -> None:
        self.num_documents = self.num_bytes = 0
        self._benchmark = benchmark
        self._folder = folder
        self._num_runs = 0

    def rate(self, workers: int) -> float:
        """Return the documents per second of a build."""
        self._num_runs += 1
        config = DatasetConfig(
            sources=SourcesConfig(exclude=("*/site-packages/*",)),
            filters=with_profile(self._benchmark.profile),
            tokenizer=DatasetTokenizer(vocab_size=self._benchmark.vocab_size),
            executor=ExecutorConfig(workers=workers),
        )
        start = time.perf_counter()
        manifest = build_dataset(
            inputs_or_default(self._benchmark.input),
            self._folder / f"build-{self._num_runs}",
            config,
        )
        seconds = time.perf_counter() - start
        self.num_documents = manifest["counts"]["read"]
        self.num_bytes = manifest["bytes"]["read"]
        return self.num_documents / seconds
