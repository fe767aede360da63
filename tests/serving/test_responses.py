"""`/v1/responses`, driven by the official client."""

import json
import math
from typing import Any

import pytest

from tests.serving.served import Served, openai

MESSAGES = [
    {"role": "user", "content": "the small cat"},
    {"role": "assistant", "content": "a dog"},
    {"role": "user", "content": [{"type": "input_text", "text": "one bird"}]},
]
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "one"}
OPTIONS: dict[str, Any] = {"model": "tiny", "extra_body": {"seed": 11}, "max_output_tokens": 20}


def _chat(served: Served, messages: Any) -> Any:
    return served.client.chat.completions.create(
        model="tiny", messages=messages, seed=11, max_completion_tokens=20
    )


def test_an_answer_is_that_of_the_chat_route(served: Served) -> None:
    system = {"role": "system", "content": "Be short."}
    cases: list[tuple[dict[str, Any], list[Any]]] = [
        ({"input": "the small cat"}, MESSAGES[:1]),
        ({"input": MESSAGES}, MESSAGES),
        ({"input": MESSAGES, "instructions": "Be short."}, [system, *MESSAGES]),
        (
            {"input": [{"role": "developer", "content": "Be kind."}, *MESSAGES],
             "instructions": "Be short."},
            [{"role": "system", "content": "Be short.\n\nBe kind."}, *MESSAGES],
        ),
    ]  # fmt: skip
    for given, messages in cases:
        expected = _chat(served, messages)
        found = served.client.responses.create(**given, **OPTIONS)
        assert found.output_text == expected.choices[0].message.content
        assert found.usage.input_tokens == expected.usage.prompt_tokens
        assert found.usage.output_tokens == expected.usage.completion_tokens
        assert found.usage.total_tokens == expected.usage.total_tokens
        is_cut = expected.choices[0].finish_reason == "length"
        assert found.status == ("incomplete" if is_cut else "completed")
        assert (found.incomplete_details is not None) == is_cut
        assert (found.model, found.store, found.output[0].role) == ("tiny", False, "assistant")


def test_an_answer_goes_back_as_a_part_of_the_next_input(served: Served) -> None:
    first = served.client.responses.create(input="the small cat", **OPTIONS)
    again: Any = [MESSAGES[0], *(item.model_dump() for item in first.output), MESSAGES[2]]
    messages = [MESSAGES[0], {"role": "assistant", "content": first.output_text}, MESSAGES[2]]
    found = served.client.responses.create(input=again, **OPTIONS)
    assert found.output_text == _chat(served, messages).choices[0].message.content


def test_a_stream_has_the_events_in_their_order(served: Served) -> None:
    whole = served.client.responses.create(input=MESSAGES, **OPTIONS)
    events = list(served.client.responses.create(input=MESSAGES, stream=True, **OPTIONS))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        whole.status,
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type.endswith("delta")) == whole.output_text
    last = events[-1].response
    assert last.output_text == whole.output_text
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert deltas > 1
    # Of which item a part is, clients look up by its id.
    ids = {event.item_id for event in events if hasattr(event, "item_id")}
    assert ids == {last.output[0].id}


def test_the_helper_of_the_official_client_follows_a_stream(served: Served) -> None:
    with served.client.responses.stream(input=MESSAGES, **OPTIONS) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(texts)


def test_events_are_named_and_an_error_is_the_last_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = served.post("/v1/responses", {"input": "the", "stream": True, "max_output_tokens": 2})
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    everything = {str(token): -100 for token in range(served.tokenizer.vocab_size)}
    body: Any = {"logit_bias": everything}
    with pytest.raises(openai.APIError, match="no token may be drawn"):
        list(served.client.responses.create(model="tiny", input="a", stream=True, extra_body=body))


def test_an_answer_has_the_form_that_is_asked_for(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"big": {"type": "boolean"}, "kind": {"enum": ["cat", "dog"]}},
        "required": ["big", "kind"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "name": "animal", "schema": schema, "strict": True}
    found = served.client.responses.create(
        model="tiny", input="the small cat", temperature=2, text={"format": form}
    )
    assert set(json.loads(found.output_text)) == {"big", "kind"}
    assert found.text.format.schema_ == schema
    wrong: Any = {**form, "schema": {"not": {}}}
    with pytest.raises(openai.BadRequestError, match="not") as error:
        served.client.responses.create(model="tiny", input="a", text={"format": wrong})
    assert error.value.param == "text.format"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"store": True}, "store", "store must be False here"),
        ({"background": True}, "background", "must be False"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "is not supported here"),
        ({"conversation": "conv_1"}, "conversation", "is not supported here"),
        ({"truncation": "auto"}, "truncation", "must be 'disabled'"),
        ({"include": ["message.output_text.logprobs"]}, "include", "must be"),
        ({"n": 2}, "n", "n must be 1"),
        ({"max_output_token": 3}, "max_output_token", "did you mean 'max_output_tokens'"),
        # A name that is none of a field is not repeated.
        ({"my secret <script>": 1}, None, "an unknown field is not supported here"),
        ({"a" * 65: 1}, None, "an unknown field is not supported here"),
        ({"tools": [{"type": "function"}]}, "tools", "a function needs a name"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools", "only tools of the type function"),
        ({"tools": [{"type": "web_search"}, {"a": 1}]}, "tools", "only tools of the type function"),
        ({"tools": [{"type": ["web_search"]}]}, "tools", "only tools of the type function"),
        ({"tools": [{"type": "web_search", "\ud800": 1}]}, "tools", "lone surrogate"),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice asks for a call"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "tool_choice: allowed are 'none'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            'and {"type": "function", "name": NAME}',
        ),
        ({"input": [CALL | {"arguments": "["}]}, "input", "must be the JSON of an object"),
        ({"input": [MESSAGES[0], RESULT]}, "input", "where 'assistant' is due"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "must be 'medium' here"),
        ({"text": {"length": 3}}, "text", "text: "),
        ({"text": {"format": {"type": "text", "grammar": ""}}}, "text", "text: "),
        (
            {"text": {"format": {"type": "json_schema", "name": "a"}}},
            "text.format",
            "text.format of the type json_schema needs schema",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input", "input: "),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "with store false"),
        ({"input": [{"type": "x" * 3000}]}, "input", "input: the type of an item must be message,"),
        ({"input": [3]}, "input", "input: the type of an item must be"),
        ({"text": 3}, "text", "text: it must be an object"),
        ({"input": []}, "input", "input: "),
        ({"input": MESSAGES[:2]}, "input", "must be of role 'user'"),
        ({"temperature": 3}, "temperature", "temperature"),
        ({"stop": ""}, "stop", "must not be empty"),
        ({"metadata": {"a": math.nan}}, "metadata", "metadata: "),
        ({"metadata": {"a": "\ud800"}}, "metadata", "lone surrogate"),
        ({"text": {"format": {"type": "text", "name": "\ud800"}}}, "text", "lone surrogate"),
        (
            {"text": {"format": {"type": "json_schema", "schema": {"const": math.inf}}}},
            "text",
            "not finite",
        ),
    ],
)
def test_what_is_not_followed_is_refused_by_name(
    served: Served, fields: dict[str, Any], param: str | None, message: str
) -> None:
    answer = served.post("/v1/responses", {"input": "the", **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert "xxx" not in error["message"]


def test_what_says_nothing_about_the_answer_is_left_out(served: Served) -> None:
    given: Any = {
        "metadata": {"a": "b"},
        "user": "me",
        "parallel_tool_calls": True,
        "tools": [{"type": "web_search"}],
        "tool_choice": "auto",
        "store": False,
        "include": [],
        "reasoning": None,
        "previous_response_id": None,
    }
    body = {"input": "the", "seed": 3, "max_output_tokens": 5}
    plain = served.post("/v1/responses", body).json()
    found = served.post("/v1/responses", {**body, **given}).json()
    assert found["output"][0]["content"] == plain["output"][0]["content"]
    assert found["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"verbosity": "medium"},
        {"format": {"type": "text"}},
        {"format": {"type": "json_object"}},
        {"format": {"type": "json_schema", "name": "a", "strict": False, "schema": {"enum": [1]}}},
    ],
)
def test_options_of_the_text_come_back_as_they_were_given(
    served: Served, text: dict[str, Any]
) -> None:
    body = {"input": "the", "max_output_tokens": 1, "text": text}
    found = served.post("/v1/responses", body).json()["text"]
    assert found == {"format": {"type": "text"}, **text}
