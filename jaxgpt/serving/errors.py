"""Errors in the shape that clients of OpenAI's API read: `{"error": {message, type, param, code}}`.

No answer names a file or shows a trace. What the client sent is repeated only where it names the
fault in a schema or grammar, and no message is long.
"""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jaxgpt.errors import BadInputError, JaxgptError
from jaxgpt.inference.engine.request import (
    ClosedError,
    ConstraintError,
    QueueFullError,
    RequestError,
)

logger = logging.getLogger(__name__)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
# Characters of a message.
_LONGEST = 1000
# Pydantic's types of errors that name a class of ours.
_NAMING = frozenset({"model_type", "model_attributes_type"})
# A client that asks again for what took too long takes the time of others.
_RETRY = {429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}, 504: {"X-Should-Retry": "false"}}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is not valid."},
    401: {"description": "The API key is missing or wrong."},
    404: {"description": "No such model."},
    413: {"description": "The body is too large."},
    429: {"description": "Too many requests wait; try again in a moment."},
    500: {"description": "The server failed."},
    503: {"description": "The server is stopping."},
    504: {"description": "The answer took too long."},
}


class ApiError(JaxgptError):
    """An error with the status that a client gets.

    Args:
        status: of HTTP.
        message: what is wrong and what to do; the end of a long one is left out.
        param: the field that is wrong.
        code: a word that programs may ask for.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[: _LONGEST - 3]}...")
        self.status = status
        self.param = param
        self.code = code


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the body of an error."""
    kind = _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """Return what a client is told about an error; one of our own making is logged, not told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full")
    if isinstance(error, ClosedError):
        return ApiError(503, str(error))
    if isinstance(error, RequestError | BadInputError | ConstraintError):
        return ApiError(400, str(error))
    if isinstance(error, JaxgptError):
        return ApiError(500, str(error))
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log says more")


def response(error: ApiError) -> JSONResponse:
    """Return an error as a response."""
    body = error_body(error.status, str(error), error.param, error.code)
    return JSONResponse(body, error.status, _RETRY.get(error.status))


def add_handlers(app: FastAPI) -> None:
    """Let the app answer every error in this shape."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # Of several forms that a field may have, the one that was meant is followed furthest.
        first = max(error.errors(), key=lambda each: len(each["loc"]))
        # Names of fields alone: keys below them are the client's.
        names = [part for part in first["loc"][1:2] if isinstance(part, str)]
        place = names[0] if names else None
        told = "it must be an object" if first["type"] in _NAMING else first["msg"]
        return response(ApiError(400, f"{place or 'the body'}: {told}", param=place))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        answer = response(ApiError(error.status_code, str(error.detail)))
        # Such as the methods that a path allows.
        answer.headers.update(error.headers or {})
        return answer

    async def other(request: Request, error: Exception) -> JSONResponse:
        return response(as_api_error(error))

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(JaxgptError, other)
    app.add_exception_handler(Exception, other)
