"""`Executor`, the interface, and `SerialExecutor`, the simplest one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")
Advance = Callable[[int], None]
"""Function that is told the amount of work done since its last call; raises to stop the build."""


class Executor(Protocol):
    """Runs independent pieces of work."""

    def run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        """Run every piece of work; yield results as they come, in any order.

        Args:
            work: called with something to report progress to. It pickles, and may be called again
                after its process has failed, even twice at once.
            advance: called often, also while nothing is finished.

        Raises:
            Any exception of a piece, or of `advance`; all other work is then stopped.
        """
        ...

    def close(self) -> None:
        """Stop everything and leave no process behind."""
        ...


class SerialExecutor:
    """Runs one piece after the other in this process."""

    def run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        """See `Executor.run`."""
        for piece in work:
            yield piece(advance)

    def close(self) -> None:
        """Do nothing, because there is nothing to stop."""
