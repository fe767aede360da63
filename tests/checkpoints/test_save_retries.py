"""A save that fails for want of room says so, whatever else goes wrong after it."""

import errno
import itertools
import os
import resource
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.checkpoints import save_retries, step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.save_retries import SaveAttempts
from jaxgpt.checkpoints.saver import EndedSave
from jaxgpt.checkpoints.stored_steps import describe_failure
from jaxgpt.errors import JaxgptError


def chained(*errors: BaseException, link: str = "__context__") -> BaseException:
    """The last of some errors, each of them linked to the one before."""
    for before, after in itertools.pairwise(errors):
        setattr(after, link, before)
    return errors[-1]


def not_empty() -> OSError:
    return OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), "params")


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_system_s_reason_is_named_and_not_what_failed_in_clearing_away(number, link):
    reason = os.strerror(number)
    for first in (
        OSError(number, reason),
        ValueError(f"Error writing {'w' * 400}: {reason} [os_error_code='{number}']"),
    ):
        said = describe_failure(chained(first, not_empty(), RuntimeError("ended"), link=link))
        assert reason in said
        assert said.count(reason) == 1
        assert "not empty" not in said
        assert len(said) < 400


def test_what_is_not_for_want_of_room_is_said_as_it_was_raised():
    said = describe_failure(chained(OSError(errno.EIO, "Input/output error"), not_empty()))
    assert said.startswith(f"OSError: [Errno {errno.ENOTEMPTY}]")
    assert describe_failure(ValueError("no [os_error_code='5']")).startswith("ValueError: no")
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert describe_failure(one) == "ValueError: one"


class _Saver:
    """Succeeds at this host, always; notes what it was told to do."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.pending: int | None = None

    def prepare(self, step):
        self.told.append("prepare")

    def begin(self, step, items):
        self.told.append("begin")

    def go_on(self, step, document):
        self.told.append("go on")
        self.pending = step

    def give_up(self, step):
        self.told.append("give up")

    def settle(self):
        step, self.pending = self.pending, None
        return None if step is None else EndedSave(step, None)


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    """Attempts at one of two hosts; what the other one says, by topic, may be set."""
    other: dict[str, list[str]] = {}

    def gather(topic, own):
        said = other.get(topic, [])
        return [own, said.pop(0) if said else ""]

    monkeypatch.setattr(save_retries, "gather", gather)
    stored = SimpleNamespace(complete=list)
    one = SaveAttempts(tmp_path, _Saver(), stored, 3)  # type: ignore[arg-type]
    return SimpleNamespace(one=one, other=other, saver=one._saver)


def test_saves_that_fail_at_another_host_are_counted_here_too(attempts):
    attempts.other["the last save"] = ["", "broken", "broken", "broken"]
    attempts.one.settle()
    for step in range(3):
        attempts.one.raise_if_too_many()
        assert attempts.one.start(step, {}, {}, None) == []
        attempts.one.settle()
    with pytest.raises(JaxgptError, match="3 saves in a row"):
        attempts.one.raise_if_too_many()


def test_only_a_save_that_succeeded_everywhere_is_counted_from(attempts):
    attempts.other["the last save"] = ["", "broken", "broken", "", "broken", "broken"]
    attempts.one.settle()
    for step in range(5):
        attempts.one.start(step, {}, {}, None)
        if step == 2:
            attempts.one.settle_here()  # at this host alone; the others are heard afterwards
        attempts.one.settle()
        attempts.one.raise_if_too_many()


def _failed(events):
    assert {event.name for event in events} <= {"save_failed"}
    return [(event.step, event.detail) for event in events]


def test_a_save_that_another_host_cannot_begin_is_begun_nowhere(attempts):
    attempts.other["the start of a save"] = ["no room", "", "no memory", "", ""]
    assert _failed(attempts.one.start(1, {}, {}, None)) == [(1, "no room")]
    assert attempts.saver.told == ["prepare", "give up"]
    assert _failed(attempts.one.start(2, {}, {}, None)) == [(2, "no memory")]
    assert attempts.saver.told[2:] == ["prepare", "begin", "give up"]
    assert attempts.one.start(3, {}, {}, None) == []
    assert attempts.saver.told[5:] == ["prepare", "begin", "go on"]


@pytest.mark.parametrize("is_cleared", [True, False])
def test_a_write_without_room_says_so(tmp_path, monkeypatch, is_cleared):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    noise = jax.random.normal(jax.random.key(0), (200_000,))
    discard = step_folders.discard_staging

    def fail_on_leftovers(directory, step):
        if not is_cleared and list(directory.glob(".saving-*")):
            raise not_empty()
        discard(directory, step)

    monkeypatch.setattr(step_folders, "discard_staging", fail_on_leftovers)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        checkpoints.save(1, {"w": noise}, {"m": jnp.zeros(2)}, {})
        with pytest.raises(JaxgptError, match=r"could not save step 1.*: File too large"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (event,) = checkpoints.take_events()
    assert event.detail.startswith("File too large: ValueError")
    checkpoints.close()
