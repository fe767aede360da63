"""An iterator that computes its next items in a thread. Knows nothing of what the items are."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Generic[T]):
    """Yields `compute(start)`, `compute(start + 1)`, ... with up to `depth` of them ready ahead.

    One thread computes, in order; what it raises, `next` raises. `depth` 0 uses no thread.
    """

    def __init__(self, compute: Callable[[int], T], start: int, depth: int) -> None:
        if depth < 0:
            raise ValueError(f"prefetch = {depth}: must be 0 or above")
        self._compute = compute
        self._next_index = start
        self._closed = False
        self._ready: deque[Future[T]] = deque()
        self._executor = None
        if depth > 0:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="jaxgpt-prefetch")
            for _ in range(depth):
                self._submit(self._executor)

    def __iter__(self) -> "Prefetched[T]":
        return self

    def __next__(self) -> T:
        if self._closed:
            raise ValueError("the iterator is closed")
        if self._executor is None:
            self._next_index += 1
            return self._compute(self._next_index - 1)
        item = self._ready[0].result()
        self._ready.popleft()
        self._submit(self._executor)
        return item

    def close(self) -> None:
        """End the thread, waiting for the item that it is at. Closing twice is fine."""
        self._closed = True
        self._ready.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetched[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _submit(self, executor: ThreadPoolExecutor) -> None:
        self._ready.append(executor.submit(self._compute, self._next_index))
        self._next_index += 1
