"""Pages of any site, where the server's options allow them."""

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from jaxgpt.serving.guard import allow_origins

httpx = pytest.importorskip("httpx", reason="needs: pip install -e '.[dev]'")


@pytest.mark.parametrize("asks_for_network", [False, True])
def test_any_site_may_read_answers_but_may_not_reach_a_private_network(
    asks_for_network: bool,
) -> None:
    app = allow_origins(PlainTextResponse("hi"), ("*",))
    headers = {"Origin": "https://a.org", "Access-Control-Request-Method": "POST"}
    if asks_for_network:
        headers["Access-Control-Request-Private-Network"] = "true"

    async def ask() -> tuple[Any, Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            preflight = await client.options("/", headers=headers)
            return preflight, await client.get("/", headers={"Origin": "https://a.org"})

    preflight, answer = asyncio.run(ask())
    assert preflight.status_code == (400 if asks_for_network else 200)
    assert "access-control-allow-private-network" not in preflight.headers
    for each in (preflight, answer):
        assert each.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in each.headers
