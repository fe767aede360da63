"""Opening the text that a model is scored on: the split must exist and be in the model's tokens.

What is computed over it is in perplexity.py and ngram_baseline.py.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.data.loader import count_evaluation_batches, evaluation_batches
from jaxgpt.data.shards import TokenDataset, TokenSplit
from jaxgpt.errors import BadInputError, MismatchError, UsageError, did_you_mean
from jaxgpt.reports.console import track
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


def read_batches(
    split: TokenSplit,
    sequence_length: int,
    batch_size: int,
    max_tokens: int | None,
    mask_documents: bool,
    shows_progress: bool,
) -> Iterator[Batch]:
    """Yield a split as `evaluation_batches` does, and show how much is done."""
    total = count_evaluation_batches(split, sequence_length, batch_size, max_tokens)
    batches = evaluation_batches(split, sequence_length, batch_size, max_tokens, mask_documents)
    return track(batches, total, "batches scored", silent=not shows_progress)


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
