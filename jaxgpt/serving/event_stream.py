"""Server-sent events: objects as they come, pings while nothing does, errors as a last event."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from jaxgpt.serving.errors import as_api_error, error_body

PING_SECONDS = 15.0
_DONE = "data: [DONE]\n\n"


def stream(objects: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Return a response that sends each object as an event, then `[DONE]`.

    A client that leaves ends the iterator.
    """
    return StreamingResponse(
        _events(objects), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(objects: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
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
        yield _DONE
    except Exception as error:
        told = as_api_error(error)
        yield event(error_body(told.status, str(told), told.param, told.code))
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await iterator.aclose()  # type: ignore[attr-defined]


def event(value: dict[str, Any]) -> str:
    """Return an object as one event."""
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
