"""Bodies as other clients send them, and the fields without which those clients fail.

Recorded by tests/soak/drive_clients.py, which drives the clients themselves.
"""

import json
from typing import Any

import pytest

from tests.serving.served import Served

SCHEMA = {
    "type": "object",
    "properties": {"big": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["big", "kind"],
    "additionalProperties": False,
}
SYSTEM = {"role": "system", "content": "Be short."}
CHAT = [SYSTEM, {"role": "user", "content": "the small cat"}]
INPUT = [
    SYSTEM,
    {"role": "user", "content": [{"type": "input_text", "text": "the small cat"}]},
    {
        "type": "message", "id": "msg_1", "status": "incomplete", "role": "assistant",
        "content": [
            {"type": "output_text", "text": "a dog", "annotations": [], "logprobs": []},
        ],
    },
    {"content": "one bird", "role": "user", "type": "message"},
]  # fmt: skip
STRICT = {"name": "animal", "strict": True, "schema": SCHEMA}
ZOD = {"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMA}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-node, zod": ("chat/completions", {
        "messages": CHAT, "max_completion_tokens": 60, "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": {**STRICT, "schema": ZOD}},
    }),
    "openai-node, logprobs": ("completions", {
        "prompt": ["the cat", "one"], "max_tokens": 5, "logprobs": 2, "echo": True, "seed": 1,
    }),
    "ai, responses": ("responses", {
        "input": INPUT, "temperature": 0, "max_output_tokens": 60,
        "text": {"format": {"type": "json_schema", **STRICT}},
    }),
    "ai, store": ("responses", {"input": INPUT, "max_output_tokens": 12, "store": False}),
    "ai, chat": ("chat/completions", {"messages": CHAT, "max_tokens": 12, "temperature": 0}),
    "ai, completions": ("completions", {
        "prompt": "Be short.\n\nuser:\nthe small cat\n\nassistant:\n", "stop": ["\nuser:"],
        "max_tokens": 12, "temperature": 0,
    }),
    "langchain, chat": ("chat/completions", {
        "messages": CHAT, "max_completion_tokens": 12, "seed": 3, "temperature": 0.5,
        "logprobs": True, "top_logprobs": 2,
    }),
    "langchain, completions": ("completions", {
        "prompt": ["the cat"], "frequency_penalty": 0, "logprobs": None, "max_tokens": 6, "n": 1,
        "presence_penalty": 0, "seed": 3, "temperature": 0.7, "top_p": 1,
    }),
    "llm": ("chat/completions", {"messages": CHAT[1:], "max_tokens": 12}),
}  # fmt: skip


# Scores of a prompt are not streamed.
CASES = [
    (client, stream)
    for client, (_, body) in BODIES.items()
    for stream in (False, True)
    if not (stream and "echo" in body)
]


@pytest.mark.parametrize(("client", "stream"), CASES)
def test_a_client_finds_what_it_reads(served: Served, client: str, stream: bool) -> None:
    path, body = BODIES[client]
    with_usage = {"stream_options": {"include_usage": True}} if path != "responses" else {}
    given = {**body, "model": "tiny", "stream": stream, **(with_usage if stream else {})}
    answer = served.post(f"/v1/{path}", given)
    assert answer.status_code == 200, answer.text
    if stream:
        events = [json.loads(each[6:]) for each in answer.text.split("\n") if _is_event(each)]
        (_check_events if path == "responses" else _check_chunks)(events)
    elif path == "responses":
        _check_response(answer.json())
    else:
        _check_choices(answer.json(), body)


def _is_event(line: str) -> bool:
    return line.startswith("data: {")


def _check_choices(found: dict[str, Any], body: dict[str, Any]) -> None:
    assert {"id", "object", "created", "model", "choices", "usage"} <= found.keys()
    for number, choice in enumerate(found["choices"]):
        assert choice["index"] == number
        assert choice["finish_reason"] in ("stop", "length")
        if "message" in choice:
            assert choice["message"]["role"] == "assistant"
            if "response_format" in body:
                assert json.loads(choice["message"]["content"]).keys() == {"big", "kind"}
        else:
            assert isinstance(choice["text"], str)
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= found["usage"].keys()


def _check_chunks(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert {"id", "object", "created", "model", "choices"} <= event.keys()
        assert all("index" in choice for choice in event["choices"])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] > 0
    assert events[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert all(choice["finish_reason"] is None for choice in events[0]["choices"])


def _check_response(found: dict[str, Any]) -> None:
    assert {"id", "object", "model", "created_at", "status", "output", "usage"} <= found.keys()
    (item,) = found["output"]
    assert (item["type"], item["role"]) == ("message", "assistant")
    assert {"id", "status"} <= item.keys()
    (part,) = item["content"]
    assert part["type"] == "output_text"
    assert part["annotations"] == []
    assert {"input_tokens", "output_tokens"} <= found["usage"].keys()


def _check_events(events: list[dict[str, Any]]) -> None:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    _check_response(events[-1]["response"])
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert deltas
    for delta in deltas:
        assert {"item_id", "output_index", "content_index", "delta"} <= delta.keys()
