"""Who may ask the server: pages of other sites, and clients with and without a key."""

import asyncio
from typing import Any

import pytest

from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.serving.served import Served, httpx, openai

guard = pytest.importorskip("jaxgpt.serving.guard", reason="needs: pip install -e '.[serve]'")
responses = pytest.importorskip("starlette.responses", reason="needs: pip install -e '.[serve]'")


@pytest.mark.parametrize("asks_for_network", [False, True])
def test_any_site_may_read_answers_but_may_not_reach_a_private_network(
    asks_for_network: bool,
) -> None:
    app = guard.allow_origins(responses.PlainTextResponse("hi"), ("*",))
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


def test_a_page_of_another_name_gets_no_answer(served: Served) -> None:
    answer = httpx.get(f"{served.url}/v1/models", headers={"Host": "evil.example:8000"})
    assert answer.status_code == 403


def test_the_pages_of_other_sites_are_told_nothing(served: Served) -> None:
    for ask in (httpx.get, httpx.options):
        answer = ask(f"{served.url}/v1/models", headers={"Origin": "https://a.org"})
        assert not any(name.startswith("access-control") for name in answer.headers)


def _check_pages_of_other_sites(served: Served, pages: tuple[str, ...]) -> None:
    """Check that pages of some origins may read answers, errors too, and those of others not."""
    path = f"{served.url}/v1/chat/completions"
    asked = {
        # A public page that asks a server of this machine.
        "Access-Control-Request-Private-Network": "true",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    for origin in pages:
        # Without a key, which a browser does not send before it is allowed to.
        allowed = httpx.options(path, headers={"Origin": origin, **asked})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert allowed.headers["access-control-allow-private-network"] == "true"
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        for key, status in (("secret", 200), ("wrong", 401)):
            headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
            answer = httpx.get(f"{served.url}/v1/models", headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].lower()
            assert {"retry-after", "x-should-retry"} <= set(exposed.split(", "))
    for origin in ("https://a.org:444", "http://a.org", "https://xa.org", "null"):
        refused = httpx.options(path, headers={"Origin": origin, **asked})
        assert refused.status_code == 400
        headers = {"Origin": origin, "Authorization": "Bearer secret"}
        answer = httpx.get(f"{served.url}/v1/models", headers=headers)
        for each in (refused, answer):
            assert "access-control-allow-origin" not in each.headers


def test_a_key_is_needed_where_one_is_set_and_a_stopping_server_refuses(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = ("https://a.org", "http://b.org:3000")
    served = Served(tokenizer, api_keys=("secret", "other"), answer_seconds=0.5, cors_origins=pages)
    try:
        _check_pages_of_other_sites(served, pages)
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            answer = httpx.get(f"{served.url}/v1/models", headers=given)
            assert answer.status_code == 401
            assert "Authorization: Bearer KEY" in answer.json()["error"]["message"]
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="other", max_retries=0)
        assert client.models.list().data[0].id == "tiny"
        assert httpx.get(f"{served.url}/healthz").status_code == 200
        # No answer takes longer than it may, whole or as a stream.
        with monkeypatch.context() as patch:
            patch.setattr(served.engine, "step", lambda: False)
            asked = {"model": "tiny", "prompt": "the", "extra_body": {"ignore_eos": True}}
            with pytest.raises(openai.InternalServerError, match="took longer than") as late:
                client.completions.create(**asked)
            assert (late.value.status_code, late.value.code) == (504, "timeout")
            assert late.value.response.headers["x-should-retry"] == "false"
            with pytest.raises(openai.APIError, match="took longer than"):
                list(client.completions.create(**asked, stream=True))
        served.wait_until_idle()
        served.server._guard.stopping = True
        with pytest.raises(openai.InternalServerError, match="the server is stopping"):
            client.models.list()
    finally:
        served.stop()
