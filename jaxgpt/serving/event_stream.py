"""Server-sent events: objects as they come, pings while nothing does, errors as a last event."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from jaxgpt.serving.errors import as_api_error, error_body

PING_SECONDS = 15.0
_DONE = "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A response that sends each object as an event, then `[DONE]`.

    Args:
        objects: iterated until the client leaves.
        finish: called when the response has ended, in whatever way, also before it began.
        last: sent after the last event.
    """

    def __init__(
        self,
        objects: AsyncIterator[dict[str, Any]],
        finish: Callable[[], None],
        last: str = _DONE,
    ) -> None:
        headers = {"Cache-Control": "no-store"}
        super().__init__(_events(objects, last), media_type="text/event-stream", headers=headers)
        self._finish = finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self.body_iterator):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)
        finally:
            self._finish()


async def _events(objects: AsyncIterator[dict[str, Any]], last: str) -> AsyncIterator[str]:
    iterator = aiter(objects)
    waiting: asyncio.Task[dict[str, Any]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(iterator))  # type: ignore[arg-type]
            done, _ = await asyncio.wait([waiting], timeout=PING_SECONDS)
            if not done:
                # A comment, which clients skip: proxies close what is silent.
                yield ": ping\n\n"
                continue
            finished, waiting = waiting, None
            yield event(finished.result())
    except StopAsyncIteration:
        yield last
    except Exception as error:
        told = as_api_error(error)
        yield event(error_body(told.status, str(told), told.param, told.code))
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await iterator.aclose()  # type: ignore[attr-defined]


def event(value: dict[str, Any]) -> str:
    """Return an object as one event; its `type`, where it has one, is the event's name too."""
    name = f"event: {value['type']}\n" if "type" in value else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
