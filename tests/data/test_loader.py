"""Order of training: a pure function of (seed, step); every window once per epoch."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.loader import (
    BatchConfig,
    DataConfig,
    TrainingBatches,
    WeightedDataset,
    open_training_batches,
)
from jaxgpt.errors import ConfigError, UsageError
from tests.data.fake_split import FakeSplit, fake_dataset, training_batches

T = 4


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def first_tokens(batches, first_row, last_row, global_batch_size):
    """First token of each of the rows, counted through all batches."""
    steps = range(first_row // global_batch_size, -(-last_row // global_batch_size))
    tokens = np.concatenate([batches.batch(step).tokens_BT[:, 0] for step in steps])
    start = first_row - steps[0] * global_batch_size
    return tokens[start : start + last_row - first_row].tolist()


@pytest.mark.parametrize(("num_tokens", "sequence_length"), [(41, 4), (44, 4), (100, 7), (9, 8)])
def test_an_epoch_visits_each_window_once(num_tokens, sequence_length):
    batches = training_batches(FakeSplit(num_tokens), sequence_length=sequence_length)
    num_windows = (num_tokens - 1) // sequence_length
    expected = [number * sequence_length for number in range(num_windows)]
    for epoch in range(3):
        rows = first_tokens(batches, epoch * num_windows, (epoch + 1) * num_windows, 3)
        assert sorted(rows) == expected
    assert batches.tokens_per_epoch == num_windows * sequence_length


def test_rows_are_windows_and_their_next_tokens():
    batch = training_batches(FakeSplit(100, starts=[0, 6, 50])).batch(0)
    first = batch.tokens_BT[:, :1]
    assert np.array_equal(batch.tokens_BT, first + np.arange(T))
    assert np.array_equal(batch.targets_BT, batch.tokens_BT + 1)
    assert np.array_equal(batch.loss_weights_BT == 0, np.isin(batch.targets_BT, [6, 50]))


def test_documents_may_be_run_together():
    split, size = FakeSplit(100, starts=[0, 6, 50]), {"sequence_length": T, "global_batch_size": 24}
    data = DataConfig(datasets=(WeightedDataset(path="d"),), mask_documents=False)
    batch = TrainingBatches([fake_dataset(split)], data, BatchConfig(**size), 0).batch(0)
    assert batch.segment_ids_BT is None
    assert (batch.loss_weights_BT == 1).all()
    assert (batch.positions_BT == np.arange(T)).all()


def test_epochs_seeds_and_datasets_have_orders_of_their_own():
    def order(seed, epoch, which=0):
        splits = [FakeSplit(401), FakeSplit(401)]
        batches = training_batches(*splits, weights=[1, 1], global_batch_size=200, seed=seed)
        rows = batches.batch(epoch).tokens_BT[:, 0]  # the datasets take turns
        return tuple(rows[which::2].tolist())

    orders = {order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16  # in particular: not (seed, epoch + 1) = (seed + 1, epoch)
    assert order(0, 0, which=0) != order(0, 0, which=1)


def test_the_order_is_not_nearly_sorted():
    rows = training_batches(FakeSplit(4001), global_batch_size=1000).batch(0).tokens_BT[:, 0]
    assert abs(np.corrcoef(rows, np.arange(1000))[0, 1]) < 0.15


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 7), st.integers(0, 7), st.integers(0, 2**40))
def test_any_rows_of_any_batch_are_a_pure_function_of_seed_and_step(step, one, other, seed):
    start, stop = sorted((one, other))
    make = lambda: training_batches(  # noqa: E731
        FakeSplit(50), FakeSplit(31), weights=[0.7, 0.3], global_batch_size=8, seed=seed
    )
    batches = make()
    whole = batches.batch(step)
    assert same(whole, make().batch(step))
    if start < stop:
        part = batches.rows(step, start, stop)
        assert same(part, jax.tree.map(lambda array: array[start:stop], whole))


def test_a_batch_reads_its_own_windows_only():
    split = FakeSplit(10_001)
    batches = training_batches(split, global_batch_size=8)
    split.num_reads = 0
    batches.batch(10**8)
    assert split.num_reads == 8
    batches.rows(10**8, 2, 5)
    assert split.num_reads == 11


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_the_sequence_is_the_same_for_any_hosts_and_prefetch(hosts, prefetch):
    batches = training_batches(FakeSplit(50), FakeSplit(31), global_batch_size=8)
    share = 8 // hosts
    iterators = [
        batches.iterate(17, range(host * share, (host + 1) * share), prefetch)
        for host in range(hosts)
    ]
    for step in range(17, 30):
        parts = [next(iterator) for iterator in iterators]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        assert same(joined, batches.batch(step))
    for iterator in iterators:
        iterator.close()


def test_a_mixture_repeats_each_dataset_at_its_own_pace():
    splits = [FakeSplit(41), FakeSplit(21, first_id=1000)]  # 10 and 5 windows
    batches = training_batches(*splits, weights=[0.8, 0.2], global_batch_size=5)
    rows = np.array(first_tokens(batches, 0, 100, 5))
    assert (rows >= 1000).sum() == 20
    small = rows[rows >= 1000]
    for epoch in range(4):
        assert sorted(small[5 * epoch : 5 * epoch + 5]) == [1000 + T * n for n in range(5)]


def test_the_fingerprint_is_of_all_that_decides_the_sequence():
    def fingerprint(path="d", weight=1.0, name="f", length=4, size=2, mask=True, seed=0):
        data = DataConfig(
            datasets=(WeightedDataset(path=path), WeightedDataset(path="e", weight=weight)),
            mask_documents=mask,
        )
        batch = BatchConfig(sequence_length=length, global_batch_size=size)
        datasets = [fake_dataset(FakeSplit(99), name), fake_dataset(FakeSplit(99), "g")]
        return str(TrainingBatches(datasets, data, batch, seed).fingerprint)

    changes = [{"weight": 2.0}, {"name": "h"}, {"length": 5}, {"size": 3}, {"mask": False}]
    prints = [fingerprint(), *(fingerprint(**change) for change in changes), fingerprint(seed=1)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(path="moved") == fingerprint()


def test_a_dataset_smaller_than_a_window_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"sequence_length = 64 needs 65 tokens.* has 64; .* 63"):
        training_batches(FakeSplit(64), sequence_length=64)


def test_no_dataset_is_refused():
    batch = BatchConfig(sequence_length=4, global_batch_size=2)
    with pytest.raises(ConfigError, match="--data DIR"):
        open_training_batches(DataConfig(), batch, 0)


def test_a_missing_path_is_a_usage_error(tmp_path):
    data = DataConfig(datasets=(WeightedDataset(path=str(tmp_path / "none")),))
    batch = BatchConfig(sequence_length=4, global_batch_size=2)
    with pytest.raises(UsageError, match="none"):
        open_training_batches(data, batch, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 0, "global_batch_size": 4}, "sequence_length = 0"),
        ({"sequence_length": 4, "global_batch_size": -1}, "global_batch_size = -1"),
        ({"sequence_length": 4, "global_batch_size": 6, "num_micro_batches": 4}, "not divisible"),
    ],
)
def test_impossible_batches_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        BatchConfig(**fields)


def test_rows_outside_the_batch_are_refused():
    batches = training_batches(FakeSplit(50))
    for arguments in [(-1, 0, 1), (0, 2, 1), (0, 0, 4)]:
        with pytest.raises(IndexError):
            batches.rows(*arguments)
