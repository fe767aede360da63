"""Answers to other prompts, of which the divergence of KTO is estimated."""

import numpy as np

from jaxgpt.finetuning.preference.mismatched import add_mismatched
from jaxgpt.finetuning.tokenized import TokenizedExamples


def _examples(*pairs: tuple[list[int], list[int]]) -> TokenizedExamples:
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    return TokenizedExamples(
        tokens_N=np.array([i for prompt, answer in pairs for i in prompt + answer], np.int32),
        weights_N=np.array(
            [i for prompt, answer in pairs for i in [0] * len(prompt) + [1] * len(answer)],
            np.float32,
        ),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels={"desirable": np.arange(len(pairs)) % 2},
    )


def _sequences(examples: TokenizedExamples) -> list[list[int]]:
    return [examples.sequence(index)[0].tolist() for index in range(2 * len(examples))]


def test_each_prompt_gets_the_answer_of_the_nearest_other_prompt() -> None:
    examples = _examples(([1, 2], [10]), ([1, 2], [11, 12]), ([3], [13]))
    found = add_mismatched(examples, max_length=16)
    assert found.group_size == 2
    assert len(found) == 3
    assert _sequences(found) == [
        [1, 2, 10],
        [1, 2, 13],
        [1, 2, 11, 12],
        [1, 2, 13],
        [3, 13],
        [3, 11, 12],
    ]
    assert found.sequence(5)[1].tolist() == [0, 1, 1]
    assert found.labels["desirable"].tolist() == [0, 1, 0]


def test_an_answer_is_cut_to_what_fits() -> None:
    found = add_mismatched(_examples(([1], [10]), ([2], [11, 12, 13, 14])), max_length=4)
    assert _sequences(found) == [[1, 10], [1, 11, 12, 13], [2, 11, 12, 13, 14], [2, 10]]


def test_equal_prompts_take_each_other() -> None:
    found = add_mismatched(_examples(([1], [10]), ([1], [11])), max_length=8)
    assert _sequences(found) == [[1, 10], [1, 11], [1, 11], [1, 10]]
