"""Barrier of the hosts of a save that propagates failure: if one host has failed, all fail. At a
plain barrier, a failed host would be missing, and the others would wait until its time limit, while
the whole run waits for them.
"""

from jaxgpt.distributed.hosts import gather

# A part of a save may take as long as a slow disk needs for all of a host's arrays.
_TIMEOUT_SECONDS = 1200.0


class SaveBarrier:
    """Barriers of one save after another; every host passes the same ones in the same order."""

    def __init__(self) -> None:
        self._is_sealed = False

    def begin(self) -> None:
        """Begin a new save."""
        self._is_sealed = False

    def wait(self) -> None:
        """Wait until all hosts have reached this barrier.

        Raises:
            OSError: another host has failed; its message is passed on.
            UnfinishedError: a host did not come in time.
        """
        self._exchange("")

    def fail(self, problem: str) -> None:
        """Make the others fail at the next barrier, without this host; raise nothing."""
        if not self._is_sealed:
            try:
                self._exchange(problem)
            except Exception:  # Ours, come back; or nobody is there to be told.
                return

    def _exchange(self, problem: str) -> None:
        try:
            problems = gather("a part of a save", problem, _TIMEOUT_SECONDS)
        except BaseException:
            self._is_sealed = True
            raise
        if first := next(filter(None, problems), None):
            self._is_sealed = True
            raise OSError(f"on another host: {first}" if not problem else first)
