"""The stage that settles the tokenizer: trained on the training text, or an existing one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer


@configclass
class DatasetTokenizer(TokenizerConfig):
    """The tokenizer of a dataset: trained on a sample of its training split, unless given."""

    path: str | None = None
    """Existing tokenizer to use instead of training one: a model file, or a dataset or run
    folder."""


def settle_vocabulary(
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
    """All training text, document by document."""
    for partition in partitions:
        for batch in partition.batches(("hash", "text")):
            for digest, text in zip(*batch.columns, strict=True):
                training, _ = assignment.divide(digest.as_py(), text.as_py())
                if training:
                    yield training
                advance(len(training))
