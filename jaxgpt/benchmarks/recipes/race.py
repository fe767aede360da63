"""Race of two recipes: tokens that one needs to reach the other's loss, both tuned, over seeds.

Losses are compared only where a schedule has ended: in the middle of a run the rate is still high,
and the loss does not predict the final one (arXiv:2509.02046). So the second recipe is trained
several times, its whole schedule pressed into fewer tokens each time.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxgpt.benchmarks.recipes.runs import Trial, TrialResult
from jaxgpt.config import replace
from jaxgpt.runs.config import TrainConfig

MakeAll = Callable[[Sequence[Trial]], list[TrialResult]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named config whose rate, length and seed are set by the race."""

    name: str
    config: TrainConfig

    def trial(self, rate: float, share: float, seed: int) -> Trial:
        """Make a run at a peak rate, with the schedule in a share of the config's steps."""
        schedule = self.config.schedule
        steps = max(1, round(share * schedule.num_steps))
        schedule = replace(schedule, peak_learning_rate=rate, num_steps=steps)
        return Trial(
            name=f"{self.name}-{steps}-steps-rate-{rate:g}-seed-{seed}",
            config=replace(self.config, schedule=schedule, seed=seed),
        )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Losses by peak rate, seed 0.

    Attributes:
        inside: whether rates on both sides of the best were tried.
    """

    losses: dict[float, float]

    @property
    def best(self) -> float:
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def inside(self) -> bool:
        return min(self.losses) < self.best < max(self.losses)


def tune(
    make_all: MakeAll, recipe: Recipe, rates: Sequence[float], share: float, max_rates: int = 6
) -> Tuning:
    """Try all rates; go on, by factors of two, while the best lies at an end.

    Args:
        make_all: makes runs.
        recipe: whose rate it is.
        rates: to begin with.
        share: of the recipe's steps that a run has.
        max_rates: most rates to try.
    """
    tuning, new = Tuning(losses={}), list(rates)
    while new:
        results = make_all([recipe.trial(rate, share, 0) for rate in new])
        more = zip(new, (result.loss for result in results), strict=True)
        tuning = Tuning(losses={**tuning.losses, **dict(more)})
        new = []
        if not tuning.inside and len(tuning.losses) < max_rates:
            new = [tuning.best * (2 if tuning.best == max(tuning.losses) else 0.5)]
    return tuning


def race(
    make_all: MakeAll,
    recipe: Recipe,
    rate: float,
    target: float,
    ladder: Sequence[float],
    first: float,
    seeds: Sequence[int],
) -> dict[float, list[TrialResult]]:
    """Train with the schedule in shares of the steps until two neighbours enclose the target.

    Args:
        make_all: makes runs.
        recipe: who runs.
        rate: its peak rate.
        target: mean loss that is to be reached.
        ladder: shares, rising; halved again and again.
        first: which of them to begin with.
        seeds: of each share.

    Returns:
        by share, the results by seed; all above the target, or below, if the ladder ends.
    """
    # The longest that does not reach the target, the shortest that does, as places of the ladder.
    above, below = -1, len(ladder)
    place, found = list(ladder).index(first), {}
    while below - above > 1:
        share = ladder[place]
        found[share] = make_all([recipe.trial(rate, share, seed) for seed in seeds])
        if mean_loss(found[share]) > target:
            above = place
        else:
            below = place
        place = (above + below) // 2
    return dict(sorted(found.items()))


def mean_loss(results: Sequence[TrialResult]) -> float:
    """Return the mean loss over all seeds."""
    return statistics.fmean(result.loss for result in results)


def share_at(losses: Mapping[float, float], target: float) -> float:
    """Return the share with the target's loss, on straight lines over the logarithm of shares.

    Args:
        losses: by share of the tokens.
        target: nats per token.

    Returns:
        NaN if the target is not enclosed.
    """
    points = sorted(losses.items())
    for (less, high), (more, low) in itertools.pairwise(points):
        if low <= target <= high and low < high:
            part = (high - target) / (high - low)
            return less * (more / less) ** part
    return math.nan
