"""Tokens that a model can learn: a random language in which each id has a few usual successors.

Uniform noise would never let a loss fall, and a fast step that does not learn is no fast step.

Axes: B rows, W = T + 1 tokens of a window.
"""

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.data.packing import make_rows

_NUM_SUCCESSORS = 8
# Ids that the language uses: a large vocabulary could not be learned in some steps.
_MAX_WORDS = 512


def sample_windows(num_rows: int, window: int, vocab_size: int, seed: int) -> np.ndarray:
    """Draw rows of a Markov chain, int32 [B, W]; the language is the same for every seed."""
    language = np.random.default_rng(0)
    words = language.permutation(vocab_size)[:_MAX_WORDS]
    successors = language.integers(0, len(words), (len(words), _NUM_SUCCESSORS))
    shares = 1 / np.arange(1, _NUM_SUCCESSORS + 1)
    rng = np.random.default_rng([seed, 1])
    state = rng.integers(0, len(words), num_rows)
    choices = rng.choice(_NUM_SUCCESSORS, (window, num_rows), p=shares / shares.sum())
    columns = []
    for choice in choices:
        columns.append(words[state])
        state = successors[state, choice]
    return np.stack(columns, axis=1).astype(np.int32)


def sample_batch(
    num_rows: int, sequence_length: int, vocab_size: int, seed: int, document: int | None = None
) -> Batch:
    """Return a batch of NumPy arrays as the loader makes it.

    Args:
        num_rows: B.
        sequence_length: T.
        vocab_size: ids from 0.
        seed: another one gives other rows.
        document: tokens after which a new document begins; None: a row is one running text.
    """
    tokens_BW = sample_windows(num_rows, sequence_length + 1, vocab_size, seed)
    starts_BW = np.zeros(tokens_BW.shape, bool)
    starts_BW[:, :: document or sequence_length + 1] = True
    return make_rows(tokens_BW, starts_BW, mask_documents=document is not None)
