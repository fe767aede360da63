"""What happens when there is no room on the disk."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from jaxgpt.errors import JaxgptError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def explaining_full_disk(output: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise JaxgptError(
            f"cannot write below {output}: {error.strerror or error}; what was finished is "
            f"kept: make room and run the same command again"
        ) from error
