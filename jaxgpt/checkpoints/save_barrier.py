"""Where the hosts of a save wait for each other: if one of them has failed, all fail there.

A barrier knows no failure: who has failed does not come, and the others wait out its limit, while
the whole run waits for them.
"""

from jaxgpt.distributed.hosts import gather

# A part of a save may take as long as a slow disk needs for all of a host's arrays.
_TIMEOUT_SECONDS = 1200.0


class SaveBarrier:
    """The points of one save after another; every host comes to the same ones in the same order."""

    def __init__(self) -> None:
        self._is_sealed = False

    def begin(self) -> None:
        """A new save."""
        self._is_sealed = False

    def wait(self) -> None:
        """Wait until all hosts have come to this point.

        Raises:
            OSError: one has failed on the way; what it says is passed on.
            UnfinishedError: one has not come in time.
        """
        self._exchange("")

    def fail(self, problem: str) -> None:
        """Let the others fail at the next point, where this host will not come; raises nothing."""
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
