"""`tokenize`: text as a build has it -> shards of token ids."""

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jaxgpt.benchmarks.inputs.texts import memory_copy_rate, read_texts
from jaxgpt.benchmarks.measurement import Baseline, Measurement, measure_interleaved, versions_of
from jaxgpt.benchmarks.peers.tiktoken_bpe import train_tiktoken
from jaxgpt.config import configclass
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.document_files import FILE_NAME, DocumentWriter
from jaxgpt.corpus.documents.partition import Partition, gather_partitions
from jaxgpt.corpus.documents.splits import HashSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.execution.executor import Executor
from jaxgpt.corpus.execution.tasks import Task, carry_out
from jaxgpt.corpus.stages.encode import encode_partition, write_shards
from jaxgpt.corpus.stages.read import PARTITION_BYTES
from jaxgpt.data.shard_writer import DEFAULT_SHARD_TOKENS
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import Kind, TokenizerConfig, train_tokenizer


@configclass
class TokenizeBenchmark:
    """Text as a build has it, to shards of token ids; in MB of text a second.

    With one worker, seconds are those of the processor; with more, those of the clock.
    """

    input: tuple[str, ...] = ()
    """Text, as for tools/build_dataset.py; by default the Python standard library."""
    kind: Kind = "bpe"
    """Kind of the tokenizer, which is trained on the same text."""
    vocab_size: int = 16384
    """Vocabulary size, on all sides."""
    max_bytes: int = 32 << 20
    """Most bytes of text to run on."""
    workers: int = 1
    """Number of processes."""
    against: Literal["nothing", "tiktoken", "one-process"] = "nothing"
    """Side to compare with. tiktoken: encode_ordinary of the texts in memory, no shards, vocabulary
    of the same size and text. one-process: jaxgpt with one worker."""
    rounds: int = 5
    """Rounds of each side."""
    json: bool = False
    """Print one object of JSON."""

    def __post_init__(self) -> None:
        if min(self.workers, self.rounds, self.max_bytes) < 1:
            raise ValueError("workers, rounds and max_bytes must be at least 1")
        if self.against == "tiktoken" and self.workers > 1:
            raise ValueError("against = 'tiktoken' is for one worker: it is per core")
        if self.against == "one-process" and self.workers == 1:
            raise ValueError("against = 'one-process' needs more than one worker")

    def run(self) -> Measurement:
        """Measure."""
        with tempfile.TemporaryDirectory() as name:
            return self._run(Path(name))

    def _run(self, folder: Path) -> Measurement:
        documents = read_texts(self.input, folder, self.max_bytes)
        texts = [document.text for document in documents]
        num_bytes = sum(len(text.encode()) for text in texts)
        config = TokenizerConfig(kind=self.kind, vocab_size=self.vocab_size)
        tokenizer = train_tokenizer(texts, config)
        num_partitions = max(self.workers, num_bytes // PARTITION_BYTES)
        job = _Job(folder, documents, num_partitions, tokenizer.save(folder))
        executor = _executor(self.workers)
        other = _executor(1)
        sides: dict[str, Callable[[], float]] = {
            "jaxgpt": lambda: num_bytes / 1e6 / job.seconds(executor, self.workers == 1)
        }
        packages = ["sentencepiece", "numpy", "pyarrow"]
        if self.against == "tiktoken":
            encoding = train_tiktoken(texts, tokenizer.vocab_size)
            sides["tiktoken"] = lambda: num_bytes / 1e6 / _tiktoken_seconds(encoding, texts)
            packages.append("tiktoken")
        elif self.against == "one-process":
            sides["one-process"] = lambda: num_bytes / 1e6 / job.seconds(other, False)
        try:
            # Workers start, files are read for the first time.
            job.seconds(executor, False)
            rates = measure_interleaved(sides, self.rounds)
        finally:
            executor.close()
        value, spread = rates["jaxgpt"]
        baseline = None
        if self.against in rates:
            theirs = rates[self.against][0]
            baseline = Baseline(name=self.against, value=theirs, ratio=value / theirs)
        return Measurement(
            measure="tokenize",
            value=value,
            unit="MB/s",
            floor=memory_copy_rate() / 1e6 * self.workers,
            floor_is="copying the text in memory",
            spread=spread,
            settings={
                "kind": self.kind,
                "ids": tokenizer.vocab_size,
                "bytes": num_bytes,
                "workers": self.workers,
            },
            versions=versions_of(packages),
            against=baseline,
        )


class _Job:
    """The documents in partitions, to be encoded again and again."""

    def __init__(
        self, folder: Path, documents: Sequence[Document], num_partitions: int, tokenizer: Path
    ) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._num_runs = 0
        stored = folder / "documents"
        stored.mkdir()
        with DocumentWriter(stored, num_partitions, seed=0) as writer:
            for document in documents:
                writer.write(document, len(document.text.encode()))
        self._partitions = gather_partitions([(stored / FILE_NAME, writer.batches)], num_partitions)
        hashes = (
            digest
            for partition in self._partitions
            for batch in partition.batches(("hash",))
            for digest in batch.column(0).to_pylist()
        )
        self._assignment = HashSplit().plan(hashes, 0)

    def seconds(self, executor: Executor, of_processor: bool) -> float:
        """Return the seconds of the stages from documents to shards."""
        self._num_runs += 1
        output = self._folder / f"run-{self._num_runs}"
        stage = output / "encoded"
        stage.mkdir(parents=True)
        clock = time.process_time if of_processor else time.perf_counter
        start = clock()
        work = [
            functools.partial(carry_out, stage, encode_partition, self._task(partition))
            for partition in self._partitions
        ]
        folders = sorted(done.folder for done in executor.run(work, _ignore))
        write_shards(
            output, folders, Tokenizer.load(self._tokenizer), DEFAULT_SHARD_TOKENS, _ignore
        )
        return clock() - start

    def _task(self, partition: Partition) -> Task:
        return Task(
            name=f"{partition.number:05d}",
            depends_on=[partition.number],
            arguments=(partition, None, self._assignment, self._tokenizer),
            num_bytes=partition.num_bytes,
        )


def _executor(num_workers: int) -> Executor:
    kind = "serial" if num_workers == 1 else "processes"
    return ExecutorConfig(kind=kind, workers=num_workers).build()


def _ignore(amount: int) -> None:
    """Ignore progress."""


def _tiktoken_seconds(encoding, texts: Sequence[str]) -> float:
    start = time.process_time()
    for text in texts:
        encoding.encode_ordinary(text)
    return time.process_time() - start
