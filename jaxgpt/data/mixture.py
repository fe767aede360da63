"""Choice of the dataset for the k-th row of a weighted mixture: exact integers, no state.

This file knows weights and indices only; the datasets themselves are in `loader.py`.

`grain.MapDataset.mix` answers the same question, but rounds weights (7 : 3 becomes 233 : 100), so
that shares drift by a row in every few thousand, and lets roundings of many small datasets add
up. Here weights are the exact decimals they were written as, and no prefix of the mixture is two
rows off.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class _Fork(NamedTuple):
    """Rows that come here are shared between two subtrees; an int is a dataset."""

    heavier: "_Fork | int"
    heavier_share: int
    share: int
    lighter: "_Fork | int"


class Interleaving:
    """Rows of several endless sequences, merged in fixed proportions.

    Proportions are split two by two down a tree. At each fork, of the first n rows the heavier
    side has had its share, rounded to the nearest integer. A dataset's count of any prefix is then
    off by 1/2 at its own fork, plus the error that comes from above times its share of that. The
    tree is Huffman's, in which a subtree has at most half the weight of what is two forks above
    it, so all errors together stay below 1/2 (1 + 1 + 1/2 + 1/2 + 1/4 + ...) = 2 rows, for any
    number of datasets, and at 1/2 row for two.
    """

    def __init__(self, shares: Sequence[int]) -> None:
        """Take proportions as positive integers, see `proportions`."""
        subtrees: list[tuple[int, int, _Fork | int]] = [
            (share, dataset, dataset) for dataset, share in enumerate(shares)
        ]
        heapq.heapify(subtrees)
        for tie_breaker in range(len(shares), 2 * len(shares) - 1):
            light, _, lighter = heapq.heappop(subtrees)
            heavy, _, heavier = heapq.heappop(subtrees)
            fork = _Fork(heavier, heavy, heavy + light, lighter)
            heapq.heappush(subtrees, (fork.share, tie_breaker, fork))
        self._root = subtrees[0][2]

    def locate(self, index: int) -> tuple[int, int]:
        """Return (dataset, row of that dataset's own sequence) for row `index` of the mixture."""
        node, row = self._root, index
        while isinstance(node, _Fork):
            before = _nearest(row * node.heavier_share, node.share)
            after = _nearest((row + 1) * node.heavier_share, node.share)
            if after > before:
                node, row = node.heavier, before
            else:
                node, row = node.lighter, row - before
        return node, row


def proportions(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the smallest integers that stand to each other as `weights` do (0.7, 0.3 -> 7, 3).

    Raises:
        ValueError: a weight is not a finite number above 0.
    """
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weight = {weight}: must be a finite number above 0")
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in exact))
    whole = [int(fraction * scale) for fraction in exact]
    divisor = math.gcd(*whole)
    return tuple(number // divisor for number in whole)


def _nearest(numerator: int, denominator: int) -> int:
    """Round a fraction to the nearest integer, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)
