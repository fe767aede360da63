"""Errors of the machine: no memory, no file handles, no permission, a failing disk or network.

They say nothing about the input, so none may be counted as a bad record or a damaged file: text
that can be read elsewhere, or a minute later, would be lost silently.
"""

import errno
import os
import zlib

import zstandard

from jaxgpt.errors import JaxgptError, is_machine_error

# The file is not there, or what it says of itself leads to no place in it.
_OF_THE_INPUT = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.EOVERFLOW,
    errno.ESPIPE,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
_READABLE = "make it readable, or leave it out (below an input folder, with --sources.exclude)"
_ADVICE = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close programs that hold many files open",
    errno.EACCES: _READABLE,
    errno.EPERM: _READABLE,
    errno.ENOSPC: "make room, or set TMPDIR to a folder on another disk",
    errno.EDQUOT: "make room, or set TMPDIR to a folder on another disk",
    errno.EIO: "check the disk",
}


def is_fault_of_machine(error: BaseException) -> bool:
    """Return whether an error raised while reading a file is the machine's, not the file's."""
    if is_machine_error(error) or type(error).__name__ == "ArrowCapacityError":
        return True
    if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
        is_of_input = isinstance(error, FileNotFoundError) or error.errno in _OF_THE_INPUT
        return not is_of_input
    if isinstance(error, OSError | zstandard.ZstdError | zlib.error):
        # Libraries that decompress report want of memory in words only.
        text = str(error)
        return "Allocation error" in text or text.startswith("Error -4 ")
    return False


def explain(error: BaseException, path: str) -> JaxgptError:
    """Return the error to raise in place of one for which `is_fault_of_machine` holds."""
    if isinstance(error, OSError) and error.errno is not None:
        detail = os.strerror(error.errno)
        advice = _ADVICE.get(error.errno, "remove the cause")
    elif isinstance(error, OSError) and type(error) is not OSError:
        detail, advice = f"{type(error).__name__}: {error}", "remove the cause"
    else:
        detail = "not enough memory"
        advice = "free memory, or use fewer processes (--executor.workers)"
    return JaxgptError(
        f"cannot read {path}: {detail}; the file itself may be sound and was not counted "
        f"as damaged: {advice}, and run the same command again"
    )
