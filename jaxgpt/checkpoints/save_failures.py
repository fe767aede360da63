"""Why a save failed, in one line: the first reason, not what failed in clearing away after it."""

import errno
import os
import re
from collections.abc import Iterator

from jaxgpt.checkpoints.stored_steps import one_line

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# TensorStore, which writes the arrays, raises ValueError with the system's number in its text.
_ERRNO_IN_TEXT = re.compile(r"\[os_error_code='(\d+)'\]")


def describe_failure(error: BaseException) -> str:
    """Return one line that says why a save failed; if for want of room, in the system's words.

    What has no room is cleared away, and that may fail too, with an error that hides the first.
    """
    for link in _chain(error):
        for number in _errno_of(link) & _NO_ROOM:
            reason, line = os.strerror(number), one_line(link)
            return line if reason in line else f"{reason}: {line}"
    return one_line(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from or in the handling of, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _errno_of(error: BaseException) -> set[int]:
    if isinstance(error, OSError):
        return set() if error.errno is None else {error.errno}
    return {int(number) for number in _ERRNO_IN_TEXT.findall(str(error))}
