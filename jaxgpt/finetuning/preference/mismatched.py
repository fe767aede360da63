"""Answers to other prompts, which show how far a policy is from its reference (see kto.py)."""

import dataclasses

import numpy as np

from jaxgpt.finetuning.tokenized import TokenizedExamples


def add_mismatched(examples: TokenizedExamples, max_length: int) -> TokenizedExamples:
    """Return examples of two sequences: each one given, and its prompt with another one's answer.

    The answer is that of the nearest example before it with another prompt, the last ones before
    the first; what makes the sequence too long is cut off its end.

    Args:
        examples: of one sequence each. A prompt is what comes before the first token with weight.
        max_length: most tokens of a sequence.
    """
    num_examples = len(examples)
    if not num_examples:
        return dataclasses.replace(examples, group_size=2)
    sequences = [examples.sequence(index) for index in range(num_examples)]
    starts = [int(np.argmax(weights > 0)) for _, weights in sequences]
    prompts = [
        tokens[:start].tobytes() for (tokens, _), start in zip(sequences, starts, strict=True)
    ]
    all_tokens, all_weights, lengths = [], [], []
    for index, (tokens, weights) in enumerate(sequences):
        start = starts[index]
        other = _previous_with_another(prompts, index)
        answer = slice(starts[other], starts[other] + max_length - start)
        other_tokens, other_weights = (part[answer] for part in sequences[other])
        all_tokens += [tokens, tokens[:start], other_tokens]
        all_weights += [weights, weights[:start], other_weights]
        lengths += [len(tokens), start + len(other_tokens)]
    return TokenizedExamples(
        tokens_N=np.concatenate(all_tokens),
        weights_N=np.concatenate(all_weights),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        group_size=2,
        labels=examples.labels,
    )


def _previous_with_another(prompts: list[bytes], index: int) -> int:
    """Return the nearest index before, with the last after the first, whose prompt differs.

    Where all prompts are equal it is the one before.
    """
    for distance in range(1, len(prompts)):
        if prompts[index - distance] != prompts[index]:
            return (index - distance) % len(prompts)
    return (index - 1) % len(prompts)
