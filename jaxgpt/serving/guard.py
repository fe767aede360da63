"""The checks before any route: the size of the body, the API key, and whether the server stops.

Pure ASGI: behind FastAPI's own middleware a route never learns that its client has left.
"""

import hmac
import json
from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from jaxgpt.serving.errors import error_body

_OWN_HOSTS = (b"localhost", b"127.0.0.1", b"[::1]")
# Paths asked for by load balancers and browsers, which have no key.
_OPEN_PATHS = frozenset({"/healthz", "/readyz"})


class Guard:
    """An ASGI app around another.

    Args:
        app: the app.
        api_keys: any of them opens it; none: no key is needed.
        max_body_bytes: largest body.
        host: where the server listens. Without keys requests must name it or this machine: a web
            page whose name was pointed here names itself.

    Attributes:
        stopping: refuse new requests: the process is about to end.
    """

    def __init__(self, app: Any, api_keys: Sequence[str], max_body_bytes: int, host: str) -> None:
        self._app = app
        self._keys = [key.encode() for key in api_keys]
        self._max_body_bytes = max_body_bytes
        self._hosts = {*_OWN_HOSTS, host.encode(), f"[{host}]".encode()}
        self.stopping = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._refuse(scope["path"], headers)
        if refused is not None:
            await _send_error(send, *refused)
            return
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_body_bytes:
            await _send_error(send, 413, self._too_large())
            return
        await self._limited(scope, receive, send)

    async def _limited(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the app; end it where a body without a stated length grows too large."""
        taken, started, refused = 0, False, False

        async def counted() -> Any:
            nonlocal taken, refused
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._max_body_bytes:
                    refused = True
                    return {"type": "http.disconnect"}
            return message

        async def watched(message: Any) -> None:
            nonlocal started
            if not refused:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, watched)
        except Exception:
            if not refused:
                raise
        if refused and not started:
            await _send_error(send, 413, self._too_large())

    def _refuse(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if path in _OPEN_PATHS:
            return None
        if not self._keys and _without_port(headers.get(b"host", b"")) not in self._hosts:
            return 403, "the Host of the request is not this server's"
        if self.stopping:
            return 503, "the server is stopping; send the request again"
        if self._keys and path.startswith(("/v1/", "/tokenize", "/detokenize", "/metrics")):
            given = headers.get(b"authorization", b"")
            scheme, _, key = given.partition(b" ")
            # All keys are compared, each in constant time.
            known = [hmac.compare_digest(key.strip(), each) for each in self._keys]
            if scheme.lower() != b"bearer" or not any(known):
                return 401, "the API key is missing or wrong; send it as Authorization: Bearer KEY"
        return None

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes"


def allow_origins(app: Any, origins: Sequence[str]) -> Any:
    """Return an app whose answers pages of some origins may read; without origins, the same app.

    Browsers ask before they send such a request (a preflight, which has no API key), and whether
    a public page may reach this machine. No cookies are allowed.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        allow_private_network="*" not in origins,
        expose_headers=("Retry-After", "X-Should-Retry"),
    )


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host


async def _send_error(send: Any, status: int, message: str) -> None:
    body = json.dumps(error_body(status, message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
