"""The interleaving of a mixture: exact shares, each dataset's rows in order, no state."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.mixture import Interleaving, proportions

SHARES = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0], (1,)),
        ([0.7, 0.3], (7, 3)),
        ([0.1, 0.2, 0.7], (1, 2, 7)),
        ([2, 4, 6], (1, 2, 3)),
        ([1e-3, 1], (1, 1000)),
        ([1 / 3, 1 / 3], (1, 1)),
    ],
)
def test_weights_are_taken_as_the_decimals_they_were_written_as(weights, expected):
    assert proportions(weights) == expected


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_finite_and_positive(weight):
    with pytest.raises(ValueError, match="must be a finite number above 0"):
        proportions([1.0, weight])


@settings(max_examples=60, deadline=None)
@given(SHARES)
def test_every_dataset_serves_its_rows_in_order(shares):
    mixture, served = Interleaving(shares), [0] * len(shares)
    for index in range(300):
        dataset, row = mixture.locate(index)
        assert row == served[dataset]
        served[dataset] += 1


@settings(max_examples=60, deadline=None)
@given(SHARES, st.integers(0, 10**12))
def test_shares_are_exact_over_whole_periods_wherever_they_begin(shares, period):
    mixture, total = Interleaving(shares), sum(shares)
    rows = range(period * total, (period + 1) * total)
    found = Counter(mixture.locate(index)[0] for index in rows)
    assert [found[dataset] for dataset in range(len(shares))] == shares


def worst_error(shares, num_rows):
    """The largest distance, over all prefixes, of a dataset's count from its exact share."""
    mixture, served, worst = Interleaving(shares), [0] * len(shares), 0.0
    for index in range(num_rows):
        served[mixture.locate(index)[0]] += 1
        for count, share in zip(served, shares, strict=True):
            worst = max(worst, abs(count - (index + 1) * share / sum(shares)))
    return worst


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(1, 1000), st.integers(1, 1000)))
def test_of_two_datasets_every_prefix_is_within_half_a_row(shares):
    assert worst_error(shares, 300) <= 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_of_many_datasets_every_prefix_is_within_two_rows(shares):
    assert worst_error(shares, 200) < 2


def test_many_small_datasets_beside_a_large_one_stay_close():
    assert worst_error([1] * 10 + [100], 500) < 1.5
