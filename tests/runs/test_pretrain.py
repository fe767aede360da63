"""Going back from where a run cannot go on, and how it ends, without training anything."""

from types import SimpleNamespace

import pytest

from jaxgpt.errors import JaxgptError, UnfinishedError
from jaxgpt.runs import pretrain
from jaxgpt.runs.pretrain import _go_back, _waiting_for_the_last_save
from jaxgpt.runs.state import Start
from jaxgpt.training.goodput import TimeAccount
from jaxgpt.training.recovery import SkipSpikes
from jaxgpt.training.rollback import Jump, UnstableError


class _Checkpoints:
    """Steps of which some are damaged; notes what time was being spent on at each call."""

    def __init__(self, account: TimeAccount, whole: list[int], damaged: list[int]) -> None:
        self.account, self.whole, self.damaged = account, whole, damaged
        self.spent_on: list[str] = []

    def steps(self) -> list[int]:
        return sorted(self.whole + self.damaged)

    def latest_verified(self, before: int) -> int | None:
        self.spent_on.append(self.account.purpose)
        for step in reversed([step for step in self.steps() if step < before]):
            if step in self.whole:
                return step
            self.damaged.remove(step)
        return None

    def abandon_after(self, step: int) -> list[int]:
        self.spent_on.append(self.account.purpose)
        return []

    def wait(self) -> None:
        self.spent_on.append(self.account.purpose)
        raise JaxgptError("could not save step 40")


def _start(course, step: int, is_usual: bool) -> Start:
    course.is_usual = is_usual
    return Start(state=None, step=step)


@pytest.fixture
def course(tmp_path, monkeypatch):
    account = TimeAccount()
    monkeypatch.setattr(pretrain, "_start", _start)
    return SimpleNamespace(
        account=account,
        run_dir=tmp_path,
        config=SimpleNamespace(recovery=SkipSpikes(rewind_steps=10)),
        checkpoints=_Checkpoints(account, whole=[10, 20], damaged=[30, 40]),
    )


def test_going_back_is_no_step_for_the_watchdog(course) -> None:
    """It waits for a save and hashes steps: longer than a step may take."""
    course.account.enter_step(48)
    again, details = _go_back(course, Start(state=None), UnstableError(48, "bad"))
    assert (again.step, again.jumps) == (20, (Jump(20, 28),))
    assert details["batches"] == [20, 28]
    assert set(course.checkpoints.spent_on) == {"restore"}
    assert course.account.purpose == "step"


def test_all_hosts_go_back_to_the_step_of_the_first(course, monkeypatch) -> None:
    """Another may not see yet, or see no more, what the first host has renamed."""
    monkeypatch.setattr(pretrain, "share", lambda topic, own: 10)
    again, _ = _go_back(course, Start(state=None), UnstableError(48, "bad"))
    assert again.step == 10


def test_a_run_never_goes_back_behind_the_step_at_which_it_was_changed(course) -> None:
    again, _ = _go_back(course, Start(state=None, step=20, changed_at=20), UnstableError(48, "bad"))
    assert again.step == 20
    with pytest.raises(UnstableError, match="bad"):
        _go_back(course, Start(state=None, step=48, changed_at=30), UnstableError(48, "bad"))


def test_what_is_refused_from_the_first_step_after_going_back_is_learned_again(course) -> None:
    """Parameters that were gone on from once are sound; what they refuse at once is the text."""
    back_at_20 = Start(state=None, step=20, jumps=(Jump(20, 28),))
    _go_back(course, Start(state=None, step=20), UnstableError(48, "bad", is_level=False))
    assert course.is_usual
    again, details = _go_back(course, back_at_20, UnstableError(60, "bad", is_level=True))
    assert (again.step, course.is_usual, details["is_learned_again"]) == (20, False, True)
    assert _go_back(course, back_at_20, UnstableError(60, "bad", is_level=False))[0].step == 20
    assert course.is_usual


def test_the_only_step_there_is_is_tried_on_other_batches_before_its_losses_are_usual(
    course,
) -> None:
    course.checkpoints.whole, course.checkpoints.damaged = [20], []
    again, details = _go_back(
        course, Start(state=None, step=20), UnstableError(28, "bad", is_level=True)
    )
    assert (again.step, course.is_usual, details["is_learned_again"]) == (20, True, False)


def test_with_nothing_to_go_back_to_the_reason_is_raised(course) -> None:
    course.checkpoints.whole = []
    with pytest.raises(UnstableError, match="bad"):
        _go_back(course, Start(state=None), UnstableError(48, "bad"))


@pytest.mark.parametrize("error", [UnstableError(48, "bad"), UnfinishedError("stopped")])
def test_a_save_that_fails_at_the_end_does_not_hide_why_it_came(course, error) -> None:
    course.account.enter_step(48)
    with pytest.raises(type(error)) as caught, _waiting_for_the_last_save(course):
        raise error
    assert caught.value is error
    assert course.checkpoints.spent_on == ["save"]
