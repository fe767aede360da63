"""Random examples of a prompt and an answer, as tokens."""

import numpy as np

from jaxgpt.benchmarks.inputs.shapes import Shape
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
