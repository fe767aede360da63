"""Roll back from where a run cannot go on, without training anything."""

from types import SimpleNamespace

import pytest

from jaxgpt.runs import rollback
from jaxgpt.runs.rollback import roll_back
from jaxgpt.runs.state import ResumePoint
from jaxgpt.training.goodput import GoodputTracker
from jaxgpt.training.recovery import SkipSpikes
from jaxgpt.training.rollback import SkippedBatches, UnstableError


class _Checkpoints:
    """Steps of which some are damaged; notes what time was being spent on at each call."""

    def __init__(self, goodput: GoodputTracker, whole: list[int], damaged: list[int]) -> None:
        self.goodput, self.whole, self.damaged = goodput, whole, damaged
        self.spent_on: list[str] = []

    def steps(self) -> list[int]:
        return sorted(self.whole + self.damaged)

    def latest_verified(self, before: int) -> int | None:
        self.spent_on.append(self.goodput.purpose)
        for step in reversed([step for step in self.steps() if step < before]):
            if step in self.whole:
                return step
            self.damaged.remove(step)
        return None

    def abandon_after(self, step: int) -> list[int]:
        self.spent_on.append(self.goodput.purpose)
        return []


def _start(setup, step: int, is_usual: bool) -> ResumePoint:
    setup.is_usual = is_usual
    return ResumePoint(state=None, step=step)


@pytest.fixture
def setup(tmp_path, monkeypatch):
    goodput = GoodputTracker()
    monkeypatch.setattr(rollback, "start_or_restore", _start)
    return SimpleNamespace(
        goodput=goodput,
        run_dir=tmp_path,
        config=SimpleNamespace(recovery=SkipSpikes(rewind_steps=10)),
        checkpoints=_Checkpoints(goodput, whole=[10, 20], damaged=[30, 40]),
    )


def test_going_back_is_no_step_for_the_watchdog(setup) -> None:
    """It waits for a save and hashes steps: longer than a step may take."""
    setup.goodput.enter_step(48)
    again, details = roll_back(setup, ResumePoint(state=None), UnstableError(48, "bad"))
    assert (again.step, again.skipped_batches) == (20, (SkippedBatches(20, 28),))
    assert details["batches"] == [20, 28]
    assert set(setup.checkpoints.spent_on) == {"restore"}
    assert setup.goodput.purpose == "step"


def test_all_hosts_go_back_to_the_step_of_the_first(setup, monkeypatch) -> None:
    """Another may not see yet, or see no more, what the first host has renamed."""
    monkeypatch.setattr(rollback, "broadcast_from_first", lambda topic, own: 10)
    again, _ = roll_back(setup, ResumePoint(state=None), UnstableError(48, "bad"))
    assert again.step == 10


def test_a_run_never_goes_back_behind_the_step_at_which_it_was_changed(setup) -> None:
    again, _ = roll_back(
        setup, ResumePoint(state=None, step=20, changed_at=20), UnstableError(48, "bad")
    )
    assert again.step == 20
    with pytest.raises(UnstableError, match="bad"):
        roll_back(setup, ResumePoint(state=None, step=48, changed_at=30), UnstableError(48, "bad"))


def test_what_is_refused_from_the_first_step_after_going_back_is_learned_again(setup) -> None:
    """Parameters that were gone on from once are sound; what they refuse at once is the text."""
    back_at_20 = ResumePoint(state=None, step=20, skipped_batches=(SkippedBatches(20, 28),))
    roll_back(setup, ResumePoint(state=None, step=20), UnstableError(48, "bad", is_level=False))
    assert setup.is_usual
    again, details = roll_back(setup, back_at_20, UnstableError(60, "bad", is_level=True))
    assert (again.step, setup.is_usual, details["is_learned_again"]) == (20, False, True)
    assert roll_back(setup, back_at_20, UnstableError(60, "bad", is_level=False))[0].step == 20
    assert setup.is_usual


def test_the_only_step_there_is_is_tried_on_other_batches_before_its_losses_are_usual(
    setup,
) -> None:
    setup.checkpoints.whole, setup.checkpoints.damaged = [20], []
    again, details = roll_back(
        setup, ResumePoint(state=None, step=20), UnstableError(28, "bad", is_level=True)
    )
    assert (again.step, setup.is_usual, details["is_learned_again"]) == (20, True, False)


def test_with_nothing_to_go_back_to_the_reason_is_raised(setup) -> None:
    setup.checkpoints.whole = []
    with pytest.raises(UnstableError, match="bad"):
        roll_back(setup, ResumePoint(state=None), UnstableError(48, "bad"))
