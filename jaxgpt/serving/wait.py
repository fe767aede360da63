"""The wait of an HTTP request: it ends with the request's time, or when its client has left."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request as HttpRequest

from jaxgpt.serving.errors import ApiError

_DISCONNECT_SECONDS = 0.25
_Result = TypeVar("_Result")


class Wait:
    """The wait of one HTTP request, from now on.

    Args:
        http: the request.
        seconds: most time until its answer is complete.

    Attributes:
        deadline: when its time is over, by the clock of the event loop.
    """

    def __init__(self, http: HttpRequest, seconds: float) -> None:
        self._http = http
        self._seconds = seconds
        self.deadline = asyncio.get_running_loop().time() + seconds

    async def result(self, work: Awaitable[_Result]) -> _Result:
        """Return what some work gives; it is cancelled if nobody waits for it any more.

        Raises:
            ApiError: the client has left and nobody reads it, or the time is over.
        """
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        try:
            while not task.done():
                left = self.deadline - loop.time()
                if left <= 0:
                    raise self.too_long()
                await asyncio.wait([task], timeout=min(left, _DISCONNECT_SECONDS))
                if not task.done() and await self._http.is_disconnected():
                    raise ApiError(499, "the client has left")
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def too_long(self) -> ApiError:
        """Return what a client is told when its time is over."""
        return ApiError(
            504,
            f"the answer took longer than {self._seconds:g} seconds; ask for fewer tokens or a "
            "smaller grammar, or when fewer others ask",
            code="timeout",
        )
