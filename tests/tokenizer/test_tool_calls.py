"""Tools as text: written as Jinja writes them, and calls that are read back as they were."""

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.errors import BadInputError
from jaxgpt.tokenizer.call_reader import CallReader
from jaxgpt.tokenizer.chat_template import Message
from jaxgpt.tokenizer.jinja_template import JINJA
from jaxgpt.tokenizer.tool_calls import Call, Turn, plain_messages, read_call
from tests.tokenizer.rendered import TYPED, as_text, template

TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tools>"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the <weather> & 'more' in \"é\"",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


class Conversations:
    """Random conversations, as OpenAI and TRL write them."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def text(self) -> str:
        letters = [*TYPED, *TAGS, *"aé漢🙂 \n\t{}%'\"\\<>&", "{{ x }}", "{% if %}"]
        return "".join(self.draw.choices(letters, k=self.draw.randrange(6)))

    def call(self, number: int) -> dict[str, Any]:
        values = [self.text(), 1, 2.5, None, [True, {"b": self.text()}]]
        arguments = {self.text(): value for value in self.draw.sample(values, 2)}
        given = arguments if self.draw.random() < 0.5 else json.dumps(arguments)
        function = {"name": self.draw.choice(["weather", 'é"x']), "arguments": given}
        if self.draw.random() < 0.3:
            return function
        # Some clients give all calls one id.
        number = self.draw.choice([number, number, 0])
        return {"id": f"call_{number}", "type": "function", "function": function}

    def messages(self) -> list[dict[str, Any]]:
        messages = [{"role": "system", "content": self.text()}][: self.draw.randrange(2)]
        for _ in range(self.draw.randint(1, 3)):
            messages.append({"role": "user", "content": self.text()})
            for _ in range(self.draw.randrange(3)):
                calls = [self.call(number) for number in range(self.draw.randint(1, 3))]
                content = self.draw.choice([None, self.text()])
                messages.append({"role": "assistant", "content": content, "tool_calls": calls})
                for call in self.draw.sample(calls, len(calls)):
                    named = {"tool_call_id": call["id"]} if "id" in call else {}
                    messages.append({"role": "tool", "content": self.text(), **named})
            train = {} if self.draw.random() < 0.7 else {"train": False}
            messages.append({"role": "assistant", "content": self.text(), **train})
        return messages


def as_turn(message: dict[str, Any]) -> Turn:
    calls = tuple(read_call(call) for call in message.get("tool_calls", ()))
    content, train = message["content"] or "", message.get("train", True)
    return Turn(message["role"], content, train, calls, message.get("tool_call_id"))


def test_jinja_renders_random_conversations_with_tools_alike() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    conversations = Conversations(0)
    for number in range(300):
        messages = conversations.messages()
        tools = [WEATHER, {"type": "function", "function": {"name": 'é"x'}}][: number % 3]
        (rendered,), (predicted,) = utils.render_jinja_template(
            [messages], tools=tools, chat_template=JINJA, return_assistant_tokens_mask=True
        )
        plain = plain_messages([as_turn(each) for each in messages], tools)
        assert as_text(*template().render(plain)) == (rendered, predicted)
        prompts, _ = utils.render_jinja_template(
            [messages[:-1]], tools=tools, chat_template=JINJA, add_generation_prompt=True
        )
        prompt = template().render_prompt(
            plain_messages([as_turn(each) for each in messages[:-1]], tools)
        )
        assert [as_text(prompt, np.zeros(len(prompt)))[0]] == prompts


@pytest.mark.parametrize(
    "ids", [["1", "1"], ["3", "1"], ["1", "2", "2"], [None, None, None], ["1", "2", None]]
)
def test_jinja_refuses_results_that_no_call_waits_for(ids: list[str | None]) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": each, "type": "function", "function": function} for each in ("1", "2")]
    results = [{"role": "tool", "content": "x", "tool_call_id": each} for each in ids]
    asked = {"role": "user", "content": "a"}
    called = {"role": "assistant", "content": None, "tool_calls": calls}
    messages: list[Any] = [asked, called, *results]
    with pytest.raises(BadInputError):
        plain_messages([as_turn(each) for each in messages])
    with pytest.raises(Exception, match="a result belongs to no call"):
        utils.render_jinja_template([messages], chat_template=JINJA)


def test_a_conversation_without_tools_is_what_it_was() -> None:
    turns = [Turn("user", "a"), Turn("assistant", "b", False)]
    assert plain_messages(turns) == [Message("user", "a"), Message("assistant", "b", False)]


def test_results_come_in_the_order_of_their_calls() -> None:
    calls = (Call("weather", "{}", "1"), Call("weather", "{}", "2"))
    asked = [Turn("user", "a"), Turn("assistant", "", calls=calls)]
    late = [Turn("tool", "second", call_id="2"), Turn("tool", "first", call_id="1")]
    assert plain_messages([*asked, *late]) == plain_messages([*asked, *late[::-1]])
    nameless = [Turn("tool", "second"), Turn("tool", "first")]
    assert plain_messages([*asked, *nameless])[-1].content.index("second") < 40


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        ([Turn("tool", "x")], "message 1 is of role 'tool', where 'system' or 'user' or"),
        ([Turn("user", "a"), Turn("assistant", "b"), Turn("tool", "c")], "called none before it"),
        ([Turn("user", "a"), Turn("tool", "c")], "message 2 is of role 'tool', where 'assistant'"),
        (
            [Turn("user", "a"), Turn("assistant", "", calls=(Call("f", "{}", "1"),)),
             Turn("tool", "c", call_id="2")],
            "message 3 is the result of no call",
        ),
        (
            [Turn("user", "a"), Turn("assistant", "", calls=(Call("f", "{}"),)),
             Turn("tool", "c"), Turn("tool", "d")],
            "message 4 is a result, and all calls before it have theirs",
        ),
        (
            [Turn("user", "a"),
             Turn("assistant", "", calls=(Call("f", "{}", "1"), Call("f", "{}", "2"))),
             Turn("tool", "c", call_id="1"), Turn("tool", "d", call_id="1")],
            "message 4 is a second result of one call",
        ),
        ([Turn("user", "a"), Turn("user", "b"), Turn("tool", "c")], "'assistant' is due$"),
    ],
)  # fmt: skip
def test_results_without_calls_are_refused(turns: list[Turn], error: str) -> None:
    with pytest.raises(BadInputError, match=error):
        plain_messages(turns)


@pytest.mark.parametrize(
    "value",
    [None, [], {}, {"name": "f"}, {"name": 1, "arguments": {}}, {"name": "f", "arguments": "[]"},
     {"name": "f", "arguments": '{"a": NaN}'}, {"function": {"name": "f", "arguments": 1}},
     {"name": "f", "arguments": {"a": float("nan")}}],
)  # fmt: skip
def test_what_is_no_call_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError, match="call"):
        read_call(value)


def read(text: str, sizes: list[int]) -> list[str | Call]:
    """Read a text in portions; adjacent texts are put together."""
    reader, found, place = CallReader(["f", 'é"x']), list[str | Call](), 0
    for size in sizes:
        found += reader.feed(text[place : place + size])
        place += size
    found += reader.feed(text[place:]) + reader.flush()
    merged: list[str | Call] = []
    for each in found:
        if isinstance(each, str) and merged and isinstance(merged[-1], str):
            merged[-1] += each
        else:
            merged.append(each)
    return merged


PARTS = [
    "<tool_call>", "</tool_call>", "\n", "<", "tool_call>", "{", "}", " ", "text", '"',
    '{"name": "f", "arguments": {}}', '{"name": "g", "arguments": {}}',
    '{"name":"f","arguments":{"a":"</tool_call>"}}', '{"name": "f", "arguments": {}}x',
    '{"name": "\\x", "arguments": {}}',
]  # fmt: skip
portions = st.lists(st.integers(1, 9), max_size=40)


@given(text=st.lists(st.sampled_from(PARTS), max_size=12).map("".join), sizes=portions)
def test_portions_do_not_matter_and_no_text_is_lost(text: str, sizes: list[int]) -> None:
    found = read(text, sizes)
    assert found == read(text, [])
    rest = "".join(text.split())
    for each in found:
        if isinstance(each, Call):
            assert json.loads(each.arguments) in ({}, {"a": "</tool_call>"})
            assert each.name == "f"
            rest = rest.replace("".join(each.arguments.split()), "", 1)
        else:
            assert "".join(each.split()) in rest


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(TAGS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    content=st.sampled_from(["", "I look.", "a < b\n"]),
    arguments=st.lists(st.dictionaries(st.text(max_size=4), values), min_size=1, max_size=3),
    sizes=portions,
)
def test_calls_that_the_template_writes_are_read_back(
    content: str, arguments: list[dict[str, Any]], sizes: list[int]
) -> None:
    calls = [Call('é"x', json.dumps(each, ensure_ascii=False)) for each in arguments]
    turns = [Turn("user", "a"), Turn("assistant", content, calls=tuple(calls))]
    written = plain_messages(turns)[-1].content
    assert read(written, sizes) == [*[content][: bool(content)], *calls]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>", "<tool_call>\n{", '<tool_call>{"name": "f"}</tool_call>', "a <tool_call> b",
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}}',
        '{"name": "f", "arguments": {}}\n</tool_call>', "\n<tool", "\n\n",
    ],
)  # fmt: skip
def test_text_that_only_resembles_a_call_stays_text(text: str) -> None:
    assert read(text, [1] * len(text)) == [text]


@pytest.mark.parametrize(
    "inner",
    [
        '{"name": "g", "arguments": {}}', '{"arguments": {}, "name": "f"}', '{name: "f", "a": {}}',
        '{"name": "f", "arguments": {"a": "\\x and more"}}', '{"name": "f", "arguments": {}} x',
    ],
)  # fmt: skip
def test_what_is_known_to_be_no_call_is_not_held_back(inner: str) -> None:
    reader, text = CallReader(["f"]), f"<tool_call>\n{inner}\n</tool_call> later"
    told = [part for letter in text for part in reader.feed(letter)]
    assert "".join(str(part) for part in told) == text
    assert reader.flush() == []


def test_a_call_after_a_tag_that_is_only_text_is_found() -> None:
    text = 'Use <tool_call> so: <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
    assert read(text, [3] * 40) == ["Use <tool_call> so: ", Call("f", '{"a": 1}')]
