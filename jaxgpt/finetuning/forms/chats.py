"""Rows that are conversations, and the examples that conversations are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, Part, as_text, parsed
from jaxgpt.finetuning.forms.tools import read_calls, read_tools
from jaxgpt.tokenizer.chat_template import ASSISTANT, ROLES, USER, Message, check_order
from jaxgpt.tokenizer.tool_calls import TOOL, Tools, Turn, plain_messages

_KEYS = ({"role", "content"}, {"from", "value"}, {"role", "tool_calls"})
_FURTHER_KEYS = {"train", "tool_calls", "tool_call_id", "name"}
# What ShareGPT and OpenAssistant call them.
_ROLES = {role: role for role in (*ROLES, TOOL)} | {
    "human": USER,
    "prompter": USER,
    "gpt": ASSISTANT,
}


@configclass
class Messages(Form):
    """A list of messages, each with `role` and `content`, or with ShareGPT's `from` and `value`.

    A message may have `train`: false for an answer that is not to be learned. An answer may have
    `tool_calls`, which are learned with it; results of tools follow as messages of the role `tool`.
    """

    noun: ClassVar[str] = "conversation"
    messages: str = "messages"
    """Field of the list."""
    tools: str = "tools"
    """Field of the definitions of tools that the assistant may call."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.messages,)

    @property
    def optional(self) -> tuple[str, ...]:
        return (self.tools,)

    def read(self, values: Mapping[str, Any]) -> Example:
        tools = read_tools(values, self.tools)
        return conversation(read_messages(values.get(self.messages), repr(self.messages), tools))


def read_messages(value: Any, what: str, tools: Tools = ()) -> list[Message]:
    """Return the messages of a list, or of the JSON of one; tools become text in them.

    Args:
        value: the list.
        what: name of the list, for errors.
        tools: definitions that the system message lists.

    Raises:
        BadRowError: it is no list of messages.
    """
    return as_messages(_read_turns(value, what), tools)


def _read_turns(value: Any, what: str) -> list[Turn]:
    value = parsed(value)
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise BadRowError("not_messages", f"{what} is {found}; allowed: a list of messages")
    return [_read_turn(each, f"message {number}") for number, each in enumerate(value, 1)]


def as_messages(turns: Sequence[Turn], tools: Tools) -> list[Message]:
    """Return turns as messages; tools, calls and results become text in them.

    Raises:
        BadRowError: roles are out of order.
    """
    try:
        return plain_messages(turns, tools)
    except BadInputError as error:
        raise BadRowError("role_order", str(error)) from None


def _read_turn(value: Any, what: str) -> Turn:
    if not isinstance(value, dict):
        raise BadRowError("not_messages", f"{what} is no object with role and content")
    # In Parquet files every message has the fields of all, null where it has none.
    name = value.get("from") if value.get("role") is None else value["role"]
    if (role := _ROLES.get(name) if isinstance(name, str) else None) is None:
        raise BadRowError(
            "unknown_role", f"{what} is of role {name!r}; allowed: {', '.join(_ROLES)}"
        )
    calls = read_calls(value.get("tool_calls"), what)
    if calls and role != ASSISTANT:
        raise BadRowError("bad_call", f"{what} has tool_calls, and is of role {role!r}")
    content = value.get("value") if value.get("content") is None else value["content"]
    content = "" if calls and content is None else as_text(content, f"the content of {what}")
    train = value.get("train")
    if train not in (None, True, False):
        raise BadRowError("not_a_flag", f"`train` of {what} is {train!r}; allowed: true, false")
    call_id = value.get("tool_call_id")
    call_id = call_id if isinstance(call_id, str) else None
    return Turn(role, content, train is None or bool(train), calls, call_id)


def prompt_of(value: Any, what: str) -> list[Turn]:
    """Return a prompt, a text or a list of messages, as turns that are not predicted.

    Raises:
        BadRowError: it is neither, or empty.
    """
    if _holds_messages(value):
        turns = _read_turns(value, what)
    elif (text := as_text(value, what)).strip():
        turns = [Turn(USER, text)]
    else:
        raise BadRowError("empty_prompt", f"{what} is empty")
    return [each._replace(train=False) for each in turns]


def answer_of(value: Any, what: str) -> list[Turn]:
    """Return an answer, a text or a list of messages, as turns.

    It is part of a conversation: it may begin with the results of calls in its prompt.

    Raises:
        BadRowError: it is neither.
    """
    if _holds_messages(value):
        return _read_turns(value, what)
    return [Turn(ASSISTANT, as_text(value, what))]


def _holds_messages(value: Any) -> bool:
    """Return whether a value is a list, or the JSON of a list of messages.

    A text such as `[1, 2]`, which is JSON too, is a text.
    """
    if isinstance(value, list):
        return True
    items = parsed(value)
    return (
        isinstance(items, list)
        and bool(items)
        and all(isinstance(item, dict) and _keys(item) in _KEYS for item in items)
    )


def _keys(item: Mapping[str, Any]) -> set[str]:
    """Return the keys of an object by which a message is known."""
    keys = item.keys() - _FURTHER_KEYS
    return keys | {"tool_calls"} if keys == {"role"} and "tool_calls" in item else keys


def conversation(messages: Sequence[Message]) -> Example:
    """Return a conversation as an example; what comes before its last answer is its prompt.

    Raises:
        BadRowError: roles are out of order, an answer is empty, or none is predicted.
    """
    parts = parts_of(messages)
    targets = [place for place, part in enumerate(parts) if part.is_target]
    first_user = next(part.text for part in parts if part.role == USER)
    return Example((parts,), targets[-1], first_user)


def parts_of(messages: Sequence[Message]) -> tuple[Part, ...]:
    """Return the parts of a conversation that can be learned from.

    Raises:
        BadRowError: as `conversation`.
    """
    try:
        check_order(messages, ASSISTANT)
    except BadInputError as error:
        raise BadRowError("role_order", str(error)) from None
    parts = tuple(
        Part(each.role, each.content, each.role == ASSISTANT and each.train) for each in messages
    )
    for number, part in enumerate(parts, 1):
        if part.is_target and not part.text.strip():
            raise BadRowError("empty_answer", f"the answer in message {number} is empty")
    if not any(part.is_target for part in parts):
        raise BadRowError("no_target", "no message is to be learned: `train` is false in every one")
    return parts


def with_label(example: Example, label: Any) -> Example:
    """Return the example with a label."""
    return dataclasses.replace(example, label=label)
