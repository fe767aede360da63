"""Random examples of a prompt and an answer, as tokens."""

from collections.abc import Iterator

import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.benchmarks.inputs.shapes import Shape
from jaxgpt.data.packing import make_rows
from jaxgpt.finetuning.tokenized import TokenizedExamples

# Lengths of prompts and answers, about those of instruction data.
_PROMPT_TOKENS, _ANSWER_TOKENS = (15, 120), (10, 200)


def sample_examples(num_examples: int, shape: Shape) -> TokenizedExamples:
    """Return examples whose answers alone are targets.

    Tokens follow each other in a language that can be learned: each is the one before plus a small
    step.
    """
    rng = np.random.default_rng(0)
    tokens, weights, lengths = [], [], []
    for _ in range(num_examples):
        # A small model has room for a part of it.
        prompt, answer = (
            min(int(rng.integers(*bounds)), shape.sequence_length // 2)
            for bounds in (_PROMPT_TOKENS, _ANSWER_TOKENS)
        )
        steps = rng.integers(1, 4, prompt + answer)
        tokens.append((rng.integers(shape.vocab_size) + np.cumsum(steps)) % shape.vocab_size)
        weights += [np.zeros(prompt), np.ones(answer)]
        lengths.append(prompt + answer)
    return TokenizedExamples(
        tokens_N=np.concatenate(tokens).astype(np.int32),
        weights_N=np.concatenate(weights).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def iterate_as_text(examples: TokenizedExamples, shape: Shape) -> Iterator[Batch]:
    """Yield the batches that pretraining makes of the same sequences, without end.

    Each sequence is a document. They follow each other and are cut where a row ends, every token
    is a target, and attention stays inside a document.
    """
    starts_N = np.zeros(len(examples.tokens_N), bool)
    starts_N[examples.offsets[:-1]] = True
    length, first = shape.sequence_length, 0
    while True:
        rows_B = first + np.arange(shape.batch_size) * length
        places_BW = (rows_B[:, None] + np.arange(length + 1)) % len(starts_N)
        yield make_rows(examples.tokens_N[places_BW], starts_N[places_BW])
        first += shape.batch_size * length
