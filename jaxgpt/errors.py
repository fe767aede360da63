"""Errors a user can act on, and the exit code each one ends a command with.

Every message says what is wrong, where, what is allowed, and what to do next, in one line.
This file knows nothing else of jaxgpt.
"""

import difflib
from collections.abc import Iterable


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
