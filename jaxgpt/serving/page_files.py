"""The chat page at `/`: the files of `page/`, under a policy that runs nothing else.

The page is static. It speaks to the routes that every client has, and asks no other server.
"""

from importlib import resources
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from jaxgpt.serving.errors import ApiError

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No inline script or style, nothing from elsewhere, and no string that becomes HTML or code.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A page of an earlier version must not meet the routes of a later one.
    "Cache-Control": "no-cache",
}


def page_router() -> APIRouter:
    """Return the routes; the files are read once."""
    router = APIRouter(include_in_schema=False)
    files = _read_files()

    def answer(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "the page has no such file")
        return Response(files[name], media_type=_TYPES[name[name.rindex(".") :]], headers=_HEADERS)

    @router.get("/")
    async def page() -> Any:
        return answer("index.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Any:
        return answer(name)

    return router


def _read_files() -> dict[str, bytes]:
    """Return the contents of the page's files by name."""
    folder = resources.files("jaxgpt.serving") / "page"
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.endswith(tuple(_TYPES))
    }
