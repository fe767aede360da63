"""What is kept: newest, periodic, best; nothing else."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.checkpoints.retention import (
    Evaluation,
    comparable_losses,
    describe_left_out,
    evaluated_steps_to_keep,
    rank_by_loss,
    steps_to_keep,
)

STEPS = st.lists(st.integers(0, 60), unique=True)
LOSSES = st.dictionaries(st.integers(0, 60), st.floats(allow_nan=True, allow_infinity=True))
COUNTS = {
    "keep_latest": st.integers(1, 4),
    "keep_every_steps": st.none() | st.integers(1, 20),
    "keep_best": st.integers(0, 3),
}


@settings(deadline=None)
@given(steps=STEPS, losses=LOSSES, **COUNTS)
def test_each_step_is_kept_for_a_reason_and_no_other(
    steps, losses, keep_latest, keep_every_steps, keep_best
):
    kept = steps_to_keep(steps, losses, keep_latest, keep_every_steps, keep_best)
    assert kept <= set(steps)
    measured = [step for step in steps if math.isfinite(losses.get(step, math.nan))]
    for step in steps:
        newer = sum(other > step for other in steps)
        better = (
            sum((losses[other], -other) < (losses[step], -step) for other in measured)
            if (step in measured)
            else math.inf
        )
        periodic = keep_every_steps is not None and step % keep_every_steps == 0
        assert (step in kept) == (newer < keep_latest or better < keep_best or periodic)


@settings(deadline=None)
@given(steps=STEPS, losses=LOSSES, **COUNTS)
def test_deleting_one_save_at_a_time_never_loses_what_is_kept_at_once(
    steps, losses, keep_latest, keep_every_steps, keep_best
):
    policy = (losses, keep_latest, keep_every_steps, keep_best)
    present = set()
    for step in sorted(steps):
        present = steps_to_keep(present | {step}, *policy)
        assert step in present
    assert present == steps_to_keep(steps, *policy)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_best(loss):
    assert rank_by_loss([1, 2, 3], {1: loss, 2: 5.0}) == [2]


def test_of_equal_losses_the_newer_is_better():
    assert rank_by_loss([1, 2, 3], {1: 2.0, 3: 2.0, 2: 2.5}) == [3, 1, 2]


def test_only_what_was_measured_as_the_newest_was_is_compared():
    """A lower loss on other text says nothing."""
    words, digits = {"data": "w", "tokens": 5}, {"data": "d", "tokens": 5}
    evaluations = {
        1: Evaluation(0.5),
        2: Evaluation(1.0, words),
        3: Evaluation(4.5, digits),
        4: Evaluation(3.1, digits),
        5: Evaluation(math.nan, words),
        6: None,
    }
    assert comparable_losses(evaluations) == {3: 4.5, 4: 3.1}
    said = describe_left_out(evaluations)
    assert "steps 1, 2 are not compared" in said
    assert "data: 'w' then, 'd' now" in said
    alike = {step: evaluations[step] for step in (3, 4, 6)}
    assert describe_left_out(alike) is None
    assert describe_left_out({}) is None
    assert comparable_losses({}) == {}


def test_steps_of_older_versions_are_compared_with_each_other():
    old = {1: Evaluation(2.0), 2: Evaluation(3.0)}
    assert comparable_losses(old) == {1: 2.0, 2: 3.0}
    new = old | {3: Evaluation(4.0, {"data": "w"})}
    assert comparable_losses(new) == {3: 4.0}
    assert evaluated_steps_to_keep(new, 1, None, 1) == {1, 3}, "an upgrade deletes no best step"
    assert evaluated_steps_to_keep(new | {4: Evaluation(5.0, {"data": "w"})}, 1, None, 1) == {
        1,
        3,
        4,
    }
    assert evaluated_steps_to_keep(new, 1, None, 0) == {3}
    assert "older version" in describe_left_out(new)
