"""What an executor is, and the simplest one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")
Advance = Callable[[int], None]
"""Told how much of the work has been done since; raises when the build is asked to stop."""


class Executor(Protocol):
    """Carries out independent pieces of work."""

    def run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        """Do every piece; yield results as they come, in any order.

        Args:
            work: called with something to report progress to. It pickles, and may be called
                again after a failure of whoever did it, even twice at once.
            advance: called often, also while nothing is finished.

        Raises:
            Whatever a piece raises, or `advance` does; what else was going on is then stopped.
        """
        ...

    def close(self) -> None:
        """Stop everything; nobody is left behind."""
        ...


class SerialExecutor:
    """One piece after the other, in this process."""

    def run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        """See `Executor.run`."""
        for piece in work:
            yield piece(advance)

    def close(self) -> None:
        """Nothing to stop."""
