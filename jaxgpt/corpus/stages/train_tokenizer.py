"""The stage that provides the tokenizer: trained on the training text, or an existing one."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import configclass, to_dict
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.corpus.execution.tasks import Task, TaskRunner
from jaxgpt.corpus.stages.documents import DividedDocuments
from jaxgpt.tokenizer.tokenizer import Tokenizer, find_file
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer


@configclass
class DatasetTokenizer(TokenizerConfig):
    """The tokenizer of a dataset: trained on a sample of its training split, unless given."""

    path: str | None = None
    """Existing tokenizer to use instead of training one: a model file, or a dataset or run
    folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFile:
    """A tokenizer's model on the disk; `key` is a hash of everything that it depends on."""

    path: Path
    key: str


def provide_tokenizer(
    runner: TaskRunner,
    divided: DividedDocuments,
    config: DatasetTokenizer,
    given: Tokenizer | None,
) -> TokenizerFile:
    """Train the tokenizer, or copy the given one."""
    partitions, assignment = divided.documents.partitions, divided.assignment
    task = Task(
        name="tokenizer",
        depends_on=[
            to_dict(config) if given is None else given.fingerprint,
            [divided.documents.key, assignment.to_json()],
        ],
        arguments=(partitions, assignment, config),
        num_bytes=sum(partition.num_bytes for partition in partitions),
    )
    title = "training the tokenizer" if given is None else "copying the tokenizer"
    (done,) = runner.run(title, write_tokenizer, [task])
    return TokenizerFile(path=find_file(done.folder), key=done.key)


def write_tokenizer(
    folder: Path,
    advance: Callable[[int], None],
    partitions: Sequence[Partition],
    assignment: Assignment,
    config: DatasetTokenizer,
) -> dict[str, Any]:
    """Write the tokenizer's model; return its description."""
    if config.path is not None:
        tokenizer = Tokenizer.load(config.path)
    else:
        tokenizer = train_tokenizer(training_texts(partitions, assignment, advance), config)
    tokenizer.save(folder)
    return tokenizer.describe()


def training_texts(
    partitions: Sequence[Partition],
    assignment: Assignment,
    advance: Callable[[int], None],
) -> Iterator[str]:
    """Yield all training text, document by document."""
    for partition in partitions:
        for batch in partition.batches(("hash", "text")):
            for digest, text in zip(*batch.columns, strict=True):
                training, _ = assignment.divide(digest.as_py(), text.as_py())
                if training:
                    yield training
                advance(len(training))
