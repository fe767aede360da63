"""Whatever a client sends, the server answers in OpenAI's shape: no 500, no trace, no lost slot."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.served import Served, httpx

schemathesis = pytest.importorskip("schemathesis", reason="needs: pip install -e '.[dev]'")

pytestmark = pytest.mark.slow

ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
)
REFUSALS = {400, 401, 403, 404, 405, 413, 415, 422, 429, 503}


def _check(status: int, text: str) -> None:
    assert status == 200 or status in REFUSALS, (status, text[:300])
    assert "Traceback" not in text
    assert "/jaxgpt/" not in text, "a path of the server's files"
    if status != 200:
        error = json.loads(text)["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name)
def test_bodies_that_its_schema_allows_and_those_that_it_does_not(
    mode: Any, served: Served
) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert set(ROUTES) <= {operation.path for operation in operations}
    # Without a body there is nothing that could be wrong.
    for operation in operations if mode.is_positive else (o for o in operations if o.body):

        @settings(max_examples=20)
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            if isinstance(case.body, dict):
                # Long answers of a random model show nothing more.
                for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                    if isinstance(case.body.get(name), int):
                        case.body[name] = min(case.body[name], 3)
            response = case.call(timeout=60)
            _check(response.status_code, response.text)

        send()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
BODIES = st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode())
FIELDS = (
    "prompt", "messages", "tokens", "max_tokens", "n", "stop", "seed", "logit_bias", "top_k",
    "input", "instructions", "text", "metadata", "tools", "max_output_tokens", "tool_choice",
)  # fmt: skip


@settings(max_examples=80)
@given(
    route=st.sampled_from(ROUTES),
    body=BODIES | st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda v: json.dumps(v)),
    kind=st.sampled_from(("application/json", "text/plain", "multipart/form-data", "")),
)
def test_broken_bodies(route: str, body: Any, kind: str, served: Served) -> None:
    response = httpx.post(
        served.url + route, content=body, headers={"Content-Type": kind}, timeout=60
    )
    _check(response.status_code, response.text)


OUTSIDE = ("../../etc/passwd", "..%2f..%2fetc/passwd", "%2fetc/passwd")


@settings(max_examples=40)
@given(
    path=st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=30
    )
    | st.sampled_from(OUTSIDE)
)
def test_paths(path: str, served: Served) -> None:
    with httpx.Client(timeout=60) as client:
        for prefix in (b"/", b"/v1/models/", b"/page/"):
            url = httpx.URL(served.url).copy_with(raw_path=prefix + path.encode())
            response = client.get(url)
            # 307: the same path without its last slash.
            assert response.status_code in {200, 307, *REFUSALS}, (prefix, path, response.text)
            assert b"root:" not in response.content


def test_slots_are_free_after_all_that(served: Served) -> None:
    served.wait_until_idle()
    assert served.post("/v1/completions", {"prompt": "the", "max_tokens": 2}).status_code == 200
