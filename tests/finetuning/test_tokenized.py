"""Examples as arrays: slices, selection and the fingerprint."""

import dataclasses

import numpy as np
import pytest

from jaxgpt.finetuning.tokenized import TokenizedExamples, answer_place


def make(group_size: int) -> TokenizedExamples:
    lengths = np.arange(1, 13)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.int32)
    labels = {"label": np.arange(12 // group_size, dtype=np.int32)}
    weights = (tokens % 3 > 0).astype(np.float32)
    return TokenizedExamples(tokens, weights, offsets, group_size, labels)


@pytest.mark.parametrize("group_size", [1, 2])
def test_selected_examples_keep_their_sequences_and_labels(group_size: int) -> None:
    examples = make(group_size)
    chosen = np.array([4, 0, 5])
    selected = examples.select(chosen)
    assert len(selected) == 3
    assert selected.labels["label"].tolist() == [4, 0, 5]
    assert selected.lengths_E.tolist() == examples.lengths_E[chosen].tolist()
    for place, example in enumerate(chosen):
        for member in range(group_size):
            for ours, theirs in zip(
                selected.sequence(place * group_size + member),
                examples.sequence(example * group_size + member),
                strict=True,
            ):
                np.testing.assert_array_equal(ours, theirs)


def test_no_examples_can_be_selected() -> None:
    assert len(make(2).select(np.array([], np.int64))) == 0


def test_every_array_changes_the_fingerprint() -> None:
    examples = make(1)
    changed = [
        dataclasses.replace(examples, tokens_N=examples.tokens_N + 1),
        dataclasses.replace(examples, weights_N=examples.weights_N * 2),
        dataclasses.replace(examples, labels={"label": examples.labels["label"][::-1]}),
        dataclasses.replace(examples, labels={"other": examples.labels["label"]}),
        make(2),
    ]
    assert len({one.fingerprint for one in [examples, *changed]}) == 6
    assert make(1).fingerprint == examples.fingerprint


@pytest.mark.parametrize(
    ("weights", "found"),
    [([0, 0, 1, 1], (2, 4)), ([0, 1, 0, 1, 0], (3, 4)), ([0, 0, 0], (3, 3)), ([0, 1, 1], (1, 3))],
)
def test_an_answer_is_the_last_run_of_targets(weights: list[int], found: tuple[int, int]) -> None:
    assert answer_place(np.array(weights)) == found
