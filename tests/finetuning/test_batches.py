"""Rows of examples: each example once an epoch, segments apart, wherever a run starts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.batch import Batch
from jaxgpt.data.loader import BatchConfig
from jaxgpt.finetuning.batches import ExampleBatches, HeldOutExamples
from jaxgpt.finetuning.tokenized import TokenizedExamples

LENGTH = 12


def make(lengths: list[int], group_size: int = 1, seed: int = 0) -> TokenizedExamples:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(100, 100 + offsets[-1], dtype=np.int32)  # Each id is one place.
    weights = rng.integers(0, 2, len(tokens)).astype(np.float32)
    weights[offsets[:-1]] = 0
    number = len(lengths) // group_size
    labels = {"label": rng.integers(0, 5, number).astype(np.int32)}
    return TokenizedExamples(tokens, weights, offsets, group_size, labels)


def sequences_of(batch: Batch) -> list[tuple[list[int], list[float], int]]:
    """Return (ids with the last target, weights, label) of each segment of a batch."""
    found = []
    for row in range(len(batch.tokens_BT)):
        segments = batch.segment_ids_BT[row]
        for segment in range(1, int(segments.max(initial=0)) + 1):
            here = np.flatnonzero(segments == segment)
            assert np.array_equal(here, np.arange(here[0], here[-1] + 1))
            assert batch.positions_BT[row, here].tolist() == list(range(len(here)))
            ids = [*batch.tokens_BT[row, here].tolist(), int(batch.targets_BT[row, here[-1]])]
            assert ids[1:] == batch.targets_BT[row, here].tolist()
            (label,) = set(batch.extras["label"][row, here].tolist())
            found.append((ids, batch.loss_weights_BT[row, here].tolist(), label))
        assert not batch.loss_weights_BT[row, segments == 0].any()
    return found


def expected_of(examples: TokenizedExamples) -> list[tuple[list[int], list[float], int]]:
    wanted = []
    for sequence in range(len(examples.offsets) - 1):
        tokens, weights = examples.sequence(sequence)
        label = int(examples.labels["label"][sequence // examples.group_size])
        wanted.append((tokens.tolist(), weights[1:].tolist(), label))
    return wanted


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, LENGTH // 2), min_size=2, max_size=20), st.sampled_from([1, 2]))
def test_held_out_rows_hold_every_sequence_once(lengths: list[int], group_size: int) -> None:
    examples = make(lengths[: len(lengths) // group_size * group_size], group_size)
    held_out = HeldOutExamples(examples, LENGTH)
    batches = list(held_out.batches(3))
    assert len(batches) == held_out.count_batches(3)
    assert {batch.tokens_BT.shape for batch in batches} == {(3, LENGTH)}
    found = [each for batch in batches for each in sequences_of(batch)]
    assert sorted(found) == sorted(expected_of(examples))
    assert max(int(batch.segment_ids_BT.max()) for batch in batches) == held_out.num_segments


def test_members_of_an_example_stand_side_by_side() -> None:
    examples = make([3, 4, 5, 2, 6, 6, 2, 2], group_size=2)
    found = [each for batch in HeldOutExamples(examples, LENGTH).batches(2)
             for each in sequences_of(batch)]  # fmt: skip
    expected = expected_of(examples)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert expected.index(first) + 1 == expected.index(second)
        assert expected.index(first) % 2 == 0


def test_an_epoch_of_training_rows_holds_every_example_once_and_orders_differ() -> None:
    examples = make([5, 7, 12, 3, 9, 11, 2, 13, 8, 10])
    batches = ExampleBatches(examples, BatchConfig(sequence_length=LENGTH, global_batch_size=1), 3)
    num_rows = batches.tokens_per_epoch // LENGTH
    epochs = [
        [sequences_of(batches.pick(epoch * num_rows + row, [0])) for row in range(num_rows)]
        for epoch in range(2)
    ]
    for epoch in epochs:
        assert sorted(each for row in epoch for each in row) == sorted(expected_of(examples))
    assert epochs[0] != epochs[1]


def test_batches_are_a_function_of_the_step_alone() -> None:
    config = BatchConfig(sequence_length=LENGTH, global_batch_size=4)
    examples = make([5, 7, 12, 3, 9, 11, 2, 13, 8, 10])
    with ExampleBatches(examples, config, 1).iterate(0) as iterator:
        read = [next(iterator) for _ in range(5)]
    with ExampleBatches(examples, config, 1).iterate(3, rows=[1, 2]) as iterator:
        later = next(iterator)
    for whole, part in zip(read[3], later, strict=True):
        if isinstance(whole, dict):
            whole, part = whole["label"], part["label"]
        np.testing.assert_array_equal(whole[1:3], part)
    assert (
        ExampleBatches(examples, config, 2).fingerprint
        != ExampleBatches(examples, config, 1).fingerprint
    )


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(Exception, match="a row takes 1 to 12"):
        HeldOutExamples(make([14]), LENGTH)
