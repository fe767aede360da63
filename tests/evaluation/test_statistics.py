"""Standard errors by formula and by repetition; intervals of paired differences."""

import math

import numpy as np
import pytest

from jaxgpt.evaluation.statistics import (
    Bits,
    Metric,
    Perplexity,
    Values,
    estimate,
    proportion_interval,
)
from jaxgpt.evaluation.statistics import paired_difference as difference

RNG = np.random.default_rng(0)


def test_of_a_plain_mean_it_is_the_standard_error_of_the_books() -> None:
    values = RNG.random(50)
    found = estimate(Metric(), Values(values, np.ones(50)))
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert found.n == 50
    assert estimate(Metric(), Values(values[:1], np.ones(1))).stderr is None


@pytest.mark.parametrize("metric", [Metric(), Perplexity(), Bits()], ids=type)
def test_it_is_the_spread_over_many_samples(metric: Metric) -> None:
    weights = RNG.integers(5, 50, (2000, 200)).astype(float)
    values = -weights * (1 + 0.3 * RNG.standard_normal(weights.shape))
    found = [estimate(metric, Values(*item)) for item in zip(values, weights, strict=True)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.stderr for each in found]) == pytest.approx(spread, rel=0.05)
    expected = metric.transform(values.sum() / weights.sum())
    assert np.mean([each.value for each in found]) == pytest.approx(expected, rel=1e-2)


def test_what_both_models_find_hard_does_not_widen_the_interval_of_their_difference() -> None:
    weights, hard = np.ones(300), RNG.standard_normal(300)
    theirs = Values(10 * hard, weights)
    ours = Values(10 * hard + 0.5 + 0.1 * RNG.standard_normal(300), weights)
    found = difference(Metric(), ours, theirs)
    assert found.value == pytest.approx(0.5, abs=0.03)
    # 95% of a normal distribution: 1.96 standard errors to each side.
    stderr = np.std(ours.values_N - theirs.values_N) / math.sqrt(300)
    assert found.high - found.low == pytest.approx(2 * 1.96 * stderr, rel=0.1)
    assert found.low < found.value < found.high
    back = difference(Metric(), theirs, ours)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_an_interval_of_95_percent_holds_the_truth_as_often() -> None:
    inside = 0
    for _ in range(200):
        first, second = RNG.random((2, 60)) < np.array([[0.6], [0.5]])
        ones = np.ones(60)
        found = difference(Metric(), Values(first * 1.0, ones), Values(second * 1.0, ones))
        inside += found.low <= 0.1 <= found.high
    assert 0.88 < inside / 200 < 0.99


def test_the_interval_is_that_of_wilson_and_has_a_width_at_the_ends() -> None:
    # scipy.stats.binomtest(5, 10).proportion_ci(method="wilson")
    np.testing.assert_allclose(proportion_interval(0.5, 10), (0.2365931, 0.7634069), atol=1e-6)
    (low, _), (_, high) = proportion_interval(1.0, 7), proportion_interval(0.0, 7)
    assert low == pytest.approx(1 - high)
    assert 0.6 < low < 0.7
