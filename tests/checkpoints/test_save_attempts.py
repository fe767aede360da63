"""A save that fails for want of room says so, whatever else goes wrong after it."""

import errno
import itertools
import os
import resource

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.manager import CheckpointConfig, Checkpoints
from jaxgpt.checkpoints.save_attempts import describe_failure
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
