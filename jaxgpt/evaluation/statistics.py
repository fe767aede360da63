"""Figures with error bars: a metric over items, and the difference of two models on the same items.

Every metric is a function of a mean: the sum of values over the sum of weights, items drawn at
random. Its standard error is that of a ratio (delta method; Cochran 1977, section 2.11); with equal
weights and the mean itself, it is the sample standard deviation / sqrt(n).

Axes: N items.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_NUM_DRAWS = 2000
_DRAWS_AT_A_TIME = 100


class Estimate(NamedTuple):
    """A figure over n items, with its standard error; None for fewer than two items."""

    value: float
    stderr: float | None
    n: int


class Interval(NamedTuple):
    """A difference, and the bounds of its central 95%."""

    value: float
    low: float
    high: float


class Values(NamedTuple):
    """Values of a metric for each item, float64 [N], and what they are divided by."""

    values_N: np.ndarray
    weights_N: np.ndarray


@dataclass(frozen=True)
class Metric:
    """The mean of values by weight; a subclass is a function of that mean."""

    normalisation: str = ""
    """Division of the log-likelihoods before they are compared."""

    def transform(self, mean: np.ndarray) -> np.ndarray:
        """Return the figure for a mean."""
        return mean

    def slope(self, mean: float) -> float:
        """Return the derivative of `transform`."""
        return 1.0


@dataclass(frozen=True)
class Perplexity(Metric):
    """exp(-mean) of log-likelihoods in nats."""

    def transform(self, mean: np.ndarray) -> np.ndarray:
        return np.exp(-mean)

    def slope(self, mean: float) -> float:
        return -math.exp(-mean)


@dataclass(frozen=True)
class Bits(Metric):
    """Log-likelihoods in nats as a code length in bits."""

    def transform(self, mean: np.ndarray) -> np.ndarray:
        return -mean / math.log(2)

    def slope(self, mean: float) -> float:
        return -1 / math.log(2)


def estimate(metric: Metric, items: Values) -> Estimate:
    """Return the figure of a metric over items, with its standard error."""
    values_N, weights_N = items
    num_items = len(values_N)
    total = weights_N.sum()
    mean = values_N.sum() / total
    value = float(metric.transform(np.array(mean)))
    if num_items < 2:
        return Estimate(value, None, num_items)
    residuals_N = values_N - mean * weights_N
    spread = math.sqrt(np.square(residuals_N).sum() * num_items / (num_items - 1)) / total
    return Estimate(value, abs(metric.slope(float(mean))) * spread, num_items)


def paired_difference(metric: Metric, ours: Values, theirs: Values, seed: int = 0) -> Interval:
    """Return the figure of `ours` minus that of `theirs`, with a bootstrap interval.

    Each draw takes the same items for both (Efron and Tibshirani 1993, section 13.3): what makes an
    item hard for both models does not widen the interval.

    Args:
        metric: the metric of both.
        ours: values for each item.
        theirs: values for the same items in the same order; their weights are those of `ours`.
        seed: seed of the draws.
    """
    weights_N = ours.weights_N
    both_2N = np.stack([ours.values_N, theirs.values_N])
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(_NUM_DRAWS // _DRAWS_AT_A_TIME):
        chosen_DN = rng.integers(0, len(weights_N), (_DRAWS_AT_A_TIME, len(weights_N)))
        means_2D = both_2N[:, chosen_DN].sum(axis=-1) / weights_N[chosen_DN].sum(axis=-1)
        draws.append(metric.transform(means_2D[0]) - metric.transform(means_2D[1]))
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    first, second = metric.transform(both_2N.sum(axis=-1) / weights_N.sum())
    return Interval(float(first - second), float(low), float(high))


def proportion_interval(share: float, number: float) -> tuple[float, float]:
    """Return the 95% interval of a proportion (Wilson 1927); it has a width at 0 and 1, too."""
    square = 1.959964**2
    center = (share + square / (2 * number)) / (1 + square / number)
    spread = math.sqrt(share * (1 - share) * square / number + (square / (2 * number)) ** 2)
    half = spread / (1 + square / number)
    return max(0.0, center - half), min(1.0, center + half)
