"""Errors a user can act on, and the exit code each one ends a command with.

Every message says what is wrong, where, what is allowed, and what to do next, in one line.
This file knows nothing else of jaxgpt.
"""

import difflib
import errno
import os
from collections.abc import Iterable

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
OUT_OF_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
_MACHINE = DISK_FULL | OUT_OF_HANDLES | {errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EROFS}


class JaxgptError(Exception):
    """Base of all errors that are shown as one line and without a traceback."""

    exit_code = 1


class UsageError(JaxgptError):
    """The command line is wrong, or it names a path that does not exist."""

    exit_code = 2


class UnfinishedError(JaxgptError):
    """The work stopped early in good order: running the same command again continues it."""

    exit_code = 75


class ReplicasDifferError(UnfinishedError):
    """Devices that must hold the same numbers do not: what they hold must not be saved."""


class ConfigError(JaxgptError):
    """A config does not load, does not type-check, or asks for an impossible combination."""

    exit_code = 78


class MismatchError(JaxgptError):
    """Not a dataset, or data, tokenizer or lineage do not belong together."""

    exit_code = 79


class DivergedError(JaxgptError):
    """Training produced a loss that is not finite."""

    exit_code = 80


class NoCheckpointError(JaxgptError):
    """A run folder holds no checkpoint that can be restored."""

    exit_code = 81


class BadInputError(JaxgptError):
    """Input data is beyond the allowed share of bad records, or nothing is left of it."""

    exit_code = 82


class InterruptedByUser(JaxgptError):
    """Ctrl-C, after the work was saved."""

    exit_code = 130


def is_machine_error(error: BaseException) -> bool:
    """Return whether an error is of the machine, and says nothing of what is in a file."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _MACHINE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the machine or of a device is used up."""
    # JAX raises a RuntimeError for both; NumPy and Python have a type for it.
    is_of_jax = isinstance(error, RuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")
    return is_of_jax or isinstance(error, MemoryError)


def explain_machine_error(error: BaseException) -> str | None:
    """Return one line on what the machine lacks and what to do; None for any other error."""
    if is_out_of_memory(error):
        detail = one_line(error, 300).rstrip(".") or type(error).__name__
        return (
            f"memory ran out: {detail}; free some, or ask for less (training with more "
            "--batch.num-micro-batches or --model.remat FullRemat, building a dataset with fewer "
            "--executor.workers), and run the same command again"
        )
    if not isinstance(error, OSError):
        return None
    file = f" {error.filename}" if error.filename else ""
    reason = os.strerror(error.errno or 0)
    if error.errno in DISK_FULL:
        return (
            f"the disk is full: cannot write{file}: {reason}; make room and run the same command "
            "again"
        )
    if error.errno in OUT_OF_HANDLES:
        return (
            f"too many files are open: cannot open{file}: {reason}; no file is damaged: "
            "raise the limit (ulimit -n 65536) and run the same command again"
        )
    return None


def one_line(error: BaseException, max_characters: int | None = None) -> str:
    """Return the text of an exception without its line breaks, cut to `max_characters`."""
    return " ".join(str(error).split())[:max_characters]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
