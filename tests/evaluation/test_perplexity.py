"""Sums over a split: each token once, no matter how it is cut into batches; figures by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.batch import Batch
from jaxgpt.evaluation.perplexity import from_sums, measure_perplexity

BYTES_PER_TOKEN = np.array([0, 0, 1, 3, 5], dtype=np.int32)


def make_batch(targets_BT: np.ndarray, weights_BT: np.ndarray) -> Batch:
    zeros_BT = np.zeros_like(targets_BT)
    return Batch(zeros_BT, targets_BT, zeros_BT + 1, zeros_BT, weights_BT.astype(np.float32))


def loss_is_the_target(batch: Batch) -> tuple[float, float]:
    """A model whose loss at each token is its target's id, in nats."""
    weights_BT = batch.loss_weights_BT
    return float((batch.targets_BT * weights_BT).sum()), float(weights_BT.sum())


def test_the_figures_by_hand() -> None:
    batch = make_batch(
        np.array([[2, 3, 4, 1], [3, 0, 0, 0]]), np.array([[1, 1, 0, 1], [1, 0, 0, 0]])
    )
    result = measure_perplexity(loss_is_the_target, [batch], BYTES_PER_TOKEN)
    # Predicted: 2, 3, 1, 3; they stand for 1 + 3 + 0 + 3 bytes.
    assert result.tokens == 4
    assert result.bytes == 7
    assert result.loss == pytest.approx(9 / 4)
    assert result.perplexity == pytest.approx(math.exp(9 / 4))
    assert result.bits_per_byte == pytest.approx(9 / math.log(2) / 7)


@settings(max_examples=30, deadline=None)
@given(
    targets=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    rows=st.integers(1, 4),
    columns=st.integers(1, 6),
)
def test_batching_and_padding_change_nothing(targets: list[int], rows: int, columns: int) -> None:
    whole = make_batch(np.array([targets]), np.ones((1, len(targets))))
    expected = measure_perplexity(loss_is_the_target, [whole], BYTES_PER_TOKEN)
    size = rows * columns
    padding = -len(targets) % size
    # Padding has targets too; only its weight says that they do not count.
    padded = np.array(targets + [4] * padding).reshape(-1, rows, columns)
    weights = np.array([1] * len(targets) + [0] * padding).reshape(-1, rows, columns)
    batches = [make_batch(t, w) for t, w in zip(padded, weights, strict=True)]
    assert measure_perplexity(loss_is_the_target, iter(batches), BYTES_PER_TOKEN) == expected


def test_small_batches_do_not_get_lost_in_a_large_sum() -> None:
    # In float32, 2**24 + 1 is 2**24.
    losses = iter([2.0**24] + [1.0] * 100)
    batches = itertools.repeat(make_batch(np.array([[2]]), np.ones((1, 1))), 101)
    result = measure_perplexity(
        lambda _: (np.float32(next(losses)), np.float32(1)), batches, BYTES_PER_TOKEN
    )
    assert result.loss * 101 == pytest.approx(2**24 + 100, abs=1e-6)
    assert result.perplexity == math.inf


def test_a_batch_is_dispatched_before_the_one_before_is_read() -> None:
    events: list[str] = []

    class Lazy:
        def __init__(self, name: str) -> None:
            self.name = name

        def __float__(self) -> float:
            events.append(f"read {self.name}")
            return 1.0

    def eval_step(batch: Batch) -> tuple[Lazy, float]:
        name = str(batch.targets_BT[0, 0])
        events.append(f"start {name}")
        return Lazy(name), 1.0

    batches = [make_batch(np.array([[i]]), np.ones((1, 1))) for i in (2, 3)]
    measure_perplexity(eval_step, batches, BYTES_PER_TOKEN)
    assert events == ["start 2", "start 3", "read 2", "read 3"]


def test_nothing_to_predict_is_an_error_and_no_bytes_are_infinite_bits() -> None:
    with pytest.raises(ValueError, match="no token"):
        measure_perplexity(loss_is_the_target, [], BYTES_PER_TOKEN)
    empty = make_batch(np.array([[3]]), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="no token"):
        measure_perplexity(loss_is_the_target, [empty], BYTES_PER_TOKEN)
    assert from_sums(1.0, 1.0, 1, 0).bits_per_byte == math.inf
