"""Tools of a chat, by the official client: calls that are forced, found, streamed and answered."""

import json
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, reject, settings
from hypothesis import strategies as st

from jaxgpt.inference.engine import Progress, Request
from jaxgpt.inference.engine.forms.begun_calls import BegunCalls
from jaxgpt.serving import structured
from jaxgpt.serving.errors import ApiError
from jaxgpt.serving.structured import AnswerForms
from jaxgpt.serving.tool_use import ToolUse
from jaxgpt.tokenizer.call_reader import CallReader
from jaxgpt.tokenizer.chat_template import ChatTemplate
from jaxgpt.tokenizer.tool_calls import CALL, Call, Turn, plain_messages
from tests.inference.engine.forms.drawn_schemas import as_parameters, schemas
from tests.serving.served import Served, openai
from tests.serving.tool_definitions import CAT, TOOLS

jsonschema = pytest.importorskip("jsonschema", reason="needs: pip install -e '.[dev]'")

SCHEMAS = {"find_cat": CAT, "stop": {"type": "object", "maxProperties": 0}}
USER: list[Any] = [{"role": "user", "content": "the small cat"}]
NAMED = {"type": "function", "function": {"name": "find_cat"}}
NOBODY = {"type": "function", "function": {"name": "x"}}
OPTIONS: dict[str, Any] = {"model": "tiny", "messages": USER, "tools": TOOLS, "temperature": 1.5}


def streamed(served: Served, **options: Any) -> tuple[str, dict[int, dict[str, Any]], str]:
    """Return content, calls and finish reason, put together from a stream."""
    content, finish = "", ""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in served.client.chat.completions.create(**options, stream=True):
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or ():
            if part.index not in calls:
                assert (part.type, part.id[:5]) == ("function", "call_")
                calls[part.index] = {"name": part.function.name, "arguments": ""}
            calls[part.index]["arguments"] += part.function.arguments
    return content, calls, finish


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_that_must_come_is_valid_streamed_and_not(served: Served, choice: Any) -> None:
    names = set()
    # Said or not, a schema that can be followed is.
    loose = [{**tool, "function": {**tool["function"], "strict": False}} for tool in TOOLS]
    for seed in range(4):
        options = {**OPTIONS, "tool_choice": choice, "seed": seed, "parallel_tool_calls": False}
        options["tools"] = loose if seed % 2 else TOOLS
        answer = served.client.chat.completions.create(**options).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        (call,) = answer.message.tool_calls
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
        names.add(call.function.name)
        found = {"name": call.function.name, "arguments": call.function.arguments}
        assert streamed(served, **options) == ("", {0: found}, "tool_calls")
    assert names == {"find_cat"} if choice is NAMED else names <= SCHEMAS.keys()


def test_the_answer_to_a_result_reads_what_the_template_writes(served: Served) -> None:
    options = {**OPTIONS, "tool_choice": NAMED, "seed": 1}
    message = served.client.chat.completions.create(**options).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "one cat"}
    conversation = [*USER, message, result]
    answer = served.client.chat.completions.create(
        **{**OPTIONS, "messages": conversation, "max_tokens": 5}
    )
    turns = [
        Turn("user", "the small cat"),
        Turn("assistant", "", calls=(Call("find_cat", call.function.arguments),)),
        Turn("tool", "one cat"),
    ]
    expected = ChatTemplate(served.tokenizer).render_prompt(plain_messages(turns, TOOLS))
    assert answer.usage.prompt_tokens == len(expected)
    body = {"messages": [*USER, message.model_dump(), result], "tools": TOOLS}
    assert served.post("/tokenize", body).json()["tokens"] == expected.tolist()


def test_several_calls_come_in_one_answer_where_that_is_allowed(served: Served) -> None:
    # After a call nothing is left but another one.
    again = {str(served.tokenizer.eos_id): -100}
    options = {**OPTIONS, "tools": TOOLS[1:], "tool_choice": "required", "logit_bias": again}
    options["seed"] = 5
    content, calls, finish = streamed(served, **options, max_tokens=120)
    assert len(calls) > 1
    assert all(call == {"name": "stop", "arguments": "{}"} for call in calls.values())
    assert finish == "length"
    whole = served.client.chat.completions.create(**options, max_tokens=120).choices[0]
    assert len(whole.message.tool_calls) == len(calls)
    assert (whole.message.content or "") == content
    assert len({call.id for call in whole.message.tool_calls}) == len(calls)


def test_the_helper_of_the_official_client_follows_a_stream_of_calls(served: Served) -> None:
    strict = {**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}
    with served.client.chat.completions.stream(
        model="tiny", messages=USER, tools=[strict], tool_choice="required", seed=2,
        parallel_tool_calls=False,
    ) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert "tool_calls.function.arguments.done" in kinds
    jsonschema.validate(call.function.parsed_arguments, CAT)


def test_without_a_choice_text_stays_text(served: Served) -> None:
    plain = {"model": "tiny", "messages": USER, "seed": 3, "max_tokens": 8}
    alone = served.client.chat.completions.create(**plain).choices[0]
    old = {"functions": [], "function_call": "auto"}
    for tools in ({"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, old):
        found = served.client.chat.completions.create(**plain, **tools).choices[0]
        assert found.message.content == alone.message.content
    auto = served.client.chat.completions.create(**plain, tools=TOOLS)
    assert auto.choices[0].message.tool_calls is None
    assert streamed(served, **plain, tools=TOOLS)[0] == auto.choices[0].message.content


class Begun(BegunCalls):
    """Lets a model that knows nothing of tools begin a call at once."""

    def __init__(self, tag: Any, call: Any, is_single: bool) -> None:
        super().__init__(tag, call, is_single)
        self._left = list(tag.ids(CALL.encode()))

    def fill(self, allowed_W: np.ndarray) -> bool:
        if not self._left:
            return super().fill(allowed_W)
        allowed_W[:] = 0
        allowed_W[self._left[0] // 32] = 1 << self._left[0] % 32
        return True

    def advance(self, token: int) -> bool:
        assert self._left[:1] in ([], [token])
        self._left = self._left[1:]
        return super().advance(token)


def test_a_call_that_the_model_begins_follows_its_function(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured, "BegunCalls", Begun)
    names = set()
    for seed in range(4):
        options = {**OPTIONS, "seed": seed, "parallel_tool_calls": False}
        answer = served.client.chat.completions.create(**options).choices[0]
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
        (call,) = answer.message.tool_calls
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
        names.add(call.function.name)
        found = {"name": call.function.name, "arguments": call.function.arguments}
        assert streamed(served, **options) == ("", {0: found}, "tool_calls")
        response = served.client.responses.create(
            **{**RESPONSE, "parallel_tool_calls": False}, extra_body={"seed": seed}
        )
        assert (response.output[0].name, response.output[0].arguments) == tuple(found.values())
    assert names == SCHEMAS.keys()


def test_after_a_call_that_the_model_began_text_is_free(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured, "BegunCalls", Begun)
    (letter,) = served.tokenizer.encode("x")
    options = {**OPTIONS, "tools": TOOLS[1:], "logit_bias": {str(letter): 100}, "max_tokens": 50}
    content, calls, finish = streamed(served, **options)
    assert (set(content), calls) == ({"x"}, {0: {"name": "stop", "arguments": "{}"}})
    assert finish == "length"


def holds_for(served: Served, parameters: dict[str, Any], seed: int) -> None:
    """Check the call of a function that a model with random weights begins."""
    forms = AnswerForms(served.tokenizer, served.tokenizer.eos_id)
    functions = [{"name": "f", "parameters": parameters, "strict": True}]
    try:
        (constraint,) = forms.calls(functions, must_come=False, is_single=True, number=1)
    except ApiError:
        reject()
    prompt = tuple(served.tokenizer.encode("the cat"))
    request = Request(prompt=prompt, max_new_tokens=250, seed=seed, constraint=constraint)
    finished, news = threading.Event(), list[Progress]()

    def deliver(progress: Progress) -> None:
        news.append(progress)
        if progress.finish is not None:
            finished.set()

    served.engine.submit(request, deliver)
    assert finished.wait(60)
    event(str(news[-1].finish))
    if news[-1].finish == "length":
        return
    assert news[-1].finish == "stop", news[-1].error
    ids = [token.id for each in news for token in each.tokens]
    (call,) = CallReader(["f"]).feed(served.tokenizer.decode(ids))
    assert isinstance(call, Call)
    jsonschema.Draft202012Validator(parameters).validate(json.loads(call.arguments))


@pytest.mark.parametrize(
    "number", [pytest.param(10, id="few"), pytest.param(200, id="many", marks=pytest.mark.slow)]
)
def test_calls_that_a_model_begins_follow_their_schemas(
    served: Served, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(structured, "BegunCalls", Begun)

    @settings(max_examples=number, deadline=None, database=None)
    @given(schema=schemas, seed=st.integers(0, 2**32))
    def hold(schema: dict[str, Any], seed: int) -> None:
        holds_for(served, as_parameters(schema), seed)

    hold()


WHOLE = '<tool_call>\n{"name": "stop", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "num_calls"),
    [
        (WHOLE, None, 1),
        (f"I stop.\n{WHOLE}\n{WHOLE}\n", "I stop.", 2),
        (WHOLE.replace("stop", "other"), WHOLE.replace("stop", "other"), 0),
        (WHOLE[:-1], WHOLE[:-1], 0),
        ("", "", 0),
    ],
)
def test_calls_of_a_model_that_may_call_are_found(
    text: str, content: str | None, num_calls: int
) -> None:
    for is_single in (False, True):
        reader = ToolUse(TOOLS, "auto", is_single).reader()
        message = reader.message(text)
        assert message["content"] == content
        expected = min(num_calls, 1) if is_single else num_calls
        assert len(message.get("tool_calls", ())) == expected
        assert reader.finish("stop") == ("tool_calls" if num_calls else "stop")
        assert reader.finish("length") == "length"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "required", "tools": None}, "tool_choice asks for a call; give tools"),
        ({"tool_choice": NOBODY}, "names none of the tools"),
        ({"tool_choice": "always"}, "tool_choice: allowed are 'none', 'auto'"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice: allowed are 'none', 'auto'"),
        ({"functions": [{"name": "f"}]}, "functions: use tools and tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call: use tools and tool_choice"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "description": "\ud800"}}]},
            "tools: Value error, the definition of a tool has a lone surrogate",
        ),
        ({"tools": [{"type": "custom", "name": "x"}]}, "only tools of the type function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "needs a name"),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "two tools have one name"),
        ({"response_format": {"type": "json_object"}}, "has no form of its own"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]},
            "strict of a function must be true, false or null",
        ),
        (
            {"tools": [{"type": "function", "function": {
                "name": "f", "strict": True, "parameters": {"not": {}}}}]},
            "the parameters of 'f': keyword 'not' at '#' is not enforced here",
        ),
        (
            {"tool_choice": "required", "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"items": {"x": 1}}}}
            ]},
            "the parameters of 'f': keyword 'x' at '#/items' is not enforced here",
        ),
        (
            {"tool_choice": "required", "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
            ]},
            "the parameters of 'f' are of another type; allowed: object",
        ),
        ({"messages": [*USER, {"role": "tool", "content": "x"}]}, "where 'assistant' is due"),
        ({"messages": [{"role": "user"}]}, "a message without tool_calls needs content"),
        (
            {"messages": [*USER, {"role": "assistant", "tool_calls": [
                {"id": "x", "function": {"name": "f", "arguments": "[]"}}]}]},
            "the arguments of a call must be the JSON of an object",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(
    served: Served, fields: dict[str, Any], message: str
) -> None:
    body = {"model": "tiny", "messages": USER, "tools": TOOLS, **fields}
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_the_official_client_tells_a_refusal(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="names none of the tools"):
        served.client.chat.completions.create(**{**OPTIONS, "tool_choice": NOBODY})


RESPONSE_TOOLS: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]
RESPONSE: dict[str, Any] = {
    "model": "tiny",
    "input": "the small cat",
    "tools": [{"type": "web_search"}, *RESPONSE_TOOLS],
    "temperature": 1.5,
}


def test_a_response_makes_the_calls_that_a_chat_does(served: Served) -> None:
    for choice, named in (("required", "required"), ({"type": "function", "name": "stop"}, None)):
        options = {**RESPONSE, "tool_choice": choice, "parallel_tool_calls": False}
        found = served.client.responses.create(**options, extra_body={"seed": 4})
        in_chat = named or {"type": "function", "function": {"name": "stop"}}
        chat = served.client.chat.completions.create(
            **{**OPTIONS, "tool_choice": in_chat, "seed": 4, "parallel_tool_calls": False}
        )
        (item,), (call,) = found.output, chat.choices[0].message.tool_calls
        assert (item.type, item.status) == ("function_call", "completed")
        assert (item.name, item.arguments) == (call.function.name, call.function.arguments)
        assert found.usage.input_tokens == chat.usage.prompt_tokens
        assert [tool.type for tool in found.tools] == ["function"] * 2

        events = list(
            served.client.responses.create(**options, stream=True, extra_body={"seed": 4})
        )
        assert [event.type.removeprefix("response.") for event in events] == [
            "created",
            "in_progress",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        assert events[3].delta == item.arguments
        (last,) = events[-1].response.output
        assert {event.item_id for event in events if hasattr(event, "item_id")} == {last.id}
        assert (last.name, last.arguments) == (item.name, item.arguments)


def test_texts_around_a_call_are_one_message_as_on_the_chat_route(served: Served) -> None:
    def said(text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}

    call = {"type": "function_call", "call_id": "c", "name": "stop", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "one cat"}
    items: Any = [*USER, said("the "), call, said("dog"), result]
    found = served.client.responses.create(**{**RESPONSE, "input": items, "max_output_tokens": 5})
    turns = [
        Turn("user", "the small cat"),
        Turn("assistant", "the dog", calls=(Call("stop", "{}"),)),
        Turn("tool", "one cat"),
    ]
    expected = ChatTemplate(served.tokenizer).render_prompt(plain_messages(turns, TOOLS))
    assert found.usage.input_tokens == len(expected)


def test_a_response_reads_results_as_a_chat_does(served: Served) -> None:
    options = {**RESPONSE, "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = served.client.responses.create(**options, extra_body={"seed": 1}).output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "one cat"}
    items: Any = [*USER, call.model_dump(), result]
    answer = served.client.responses.create(**{**RESPONSE, "input": items, "max_output_tokens": 5})
    turns = [
        Turn("user", "the small cat"),
        Turn("assistant", "", calls=(Call(call.name, call.arguments),)),
        Turn("tool", "one cat"),
    ]
    expected = ChatTemplate(served.tokenizer).render_prompt(plain_messages(turns, TOOLS))
    assert answer.usage.input_tokens == len(expected)
    assert (answer.output[0].type, answer.tool_choice) == ("message", "auto")
    # An answer that ends by itself: the helper raises where one is cut off.
    ends: Any = {"logit_bias": {str(served.tokenizer.eos_id): 100}, "min_tokens": 4}
    with served.client.responses.stream(**RESPONSE, extra_body=ends) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text
