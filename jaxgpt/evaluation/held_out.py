"""The text that a model is scored on: a split that exists and is in the model's tokens.

What is computed over it is in perplexity.py and ngram_baseline.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.data.loader import count_evaluation_batches, evaluation_batches
from jaxgpt.data.shards import TokenDataset, TokenSplit
from jaxgpt.errors import BadInputError, MismatchError, UsageError, did_you_mean
from jaxgpt.tokenizer.tokenizer import Tokenizer

_TOKENS_AT_A_TIME = 1 << 20


def open_split(
    directory: str | Path, split: str, tokenizer: Tokenizer, owner: str | Path
) -> TokenSplit:
    """Open a split of a dataset for a model.

    Args:
        directory: the dataset folder.
        split: its name.
        tokenizer: the model's.
        owner: what the tokenizer belongs to, for the message.

    Raises:
        UsageError: there is no such folder or split.
        MismatchError: it is no dataset, or one of another tokenizer.
        BadInputError: the split holds nothing to predict.
    """
    dataset = TokenDataset.open(directory)
    theirs = dataset.load_tokenizer()
    if theirs.fingerprint != tokenizer.fingerprint:
        raise MismatchError(
            f"{directory} was made with another tokenizer ({_name(theirs)}) than {owner} "
            f"({_name(tokenizer)}); build its text again with the tokenizer of {owner}"
        )
    if split not in dataset.splits:
        raise UsageError(
            f"{directory} has no split {split!r}{did_you_mean(split, dataset.splits)}; "
            f"it has {', '.join(dataset.splits)}"
        )
    found = dataset.splits[split]
    if found.num_tokens <= found.num_documents:
        raise BadInputError(
            f"the split {split} of {directory} has no token to predict; choose another --split, "
            "or build the dataset with more text"
        )
    return found


class HeldOut(Protocol):
    """Data that no step trains on, in batches that do not depend on the devices.

    Attributes:
        num_segments: most segments that a row has; 0: it is not known.
    """

    @property
    def num_segments(self) -> int: ...

    def batches(self, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Yield batches of `batch_size` rows, in order; None reads everything."""
        ...

    def count_batches(self, batch_size: int, max_tokens: int | None = None) -> int:
        """Return how many batches `batches` yields."""
        ...

    def settings(self, max_tokens: int | None = None) -> dict[str, Any]:
        """Return what measurements must share to be comparable, as JSON values."""
        ...


@dataclass(frozen=True)
class HeldOutText:
    """A split of a dataset, read in consecutive rows; see `evaluation_batches`.

    Attributes:
        split: what is read.
        sequence_length: tokens of a row.
        mask_documents: as in training.
        num_segments: 0: it is not known.
    """

    split: TokenSplit
    sequence_length: int
    mask_documents: bool
    num_segments: int = 0

    def batches(self, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
        """Yield batches of `batch_size` rows, in order; None reads all tokens."""
        return evaluation_batches(
            self.split, self.sequence_length, batch_size, max_tokens, self.mask_documents
        )

    def count_batches(self, batch_size: int, max_tokens: int | None = None) -> int:
        """Return how many batches `batches` yields."""
        return count_evaluation_batches(self.split, self.sequence_length, batch_size, max_tokens)

    def settings(self, max_tokens: int | None = None) -> dict[str, Any]:
        """Return what evaluations must share to be comparable, as JSON values."""
        num_tokens = self.split.num_tokens
        return {
            "data": self.split.fingerprint,
            "tokens": num_tokens if max_tokens is None else min(max_tokens, num_tokens),
            "sequence_length": self.sequence_length,
            "mask_documents": self.mask_documents,
        }


def read_documents(split: TokenSplit, tokenizer: Tokenizer) -> Iterator[bytes]:
    """Yield the text of each document of a split, in order, as UTF-8."""
    pending = np.empty(0, np.int32)
    for start in range(0, split.num_tokens, _TOKENS_AT_A_TIME):
        stop = min(start + _TOKENS_AT_A_TIME, split.num_tokens)
        tokens = split.read(start, stop)
        begins = split.document_starts(start, stop) - start
        parts = np.split(tokens, begins)
        # The first part continues the document before; the last one may not be whole yet.
        pending = np.concatenate([pending, parts[0]])
        for part in parts[1:]:
            if len(pending):
                yield tokenizer.decode_bytes(pending.tolist())
            pending = part
    if len(pending):
        yield tokenizer.decode_bytes(pending.tolist())


def _name(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind}, {tokenizer.vocab_size} ids, {tokenizer.fingerprint[:12]}"
