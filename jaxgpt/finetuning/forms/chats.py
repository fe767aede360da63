"""Rows that are conversations, and the examples that conversations are."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, Part, as_text, parsed
from jaxgpt.tokenizer.chat_template import ASSISTANT, ROLES, USER, Message, check_order

_KEYS = ({"role", "content"}, {"from", "value"})
# What ShareGPT and OpenAssistant call them.
_ROLES = {role: role for role in ROLES} | {"human": USER, "prompter": USER, "gpt": ASSISTANT}


@configclass
class Messages(Form):
    """A list of messages, each with `role` and `content`, or with ShareGPT's `from` and `value`.

    A message may have `train`: false for an answer that is not to be learned.
    """

    noun: ClassVar[str] = "conversation"
    messages: str = "messages"
    """Field of the list."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.messages,)

    def read(self, values: Mapping[str, Any]) -> Example:
        return conversation(read_messages(values.get(self.messages), repr(self.messages)))


def read_messages(value: Any, what: str) -> list[Message]:
    """Return the messages of a list, or of the JSON of one; `what` names it in errors.

    Raises:
        BadRowError: it is no list of messages.
    """
    value = parsed(value)
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise BadRowError("not_messages", f"{what} is {found}; allowed: a list of messages")
    return [_read_message(each, f"message {number}") for number, each in enumerate(value, 1)]


def _read_message(value: Any, what: str) -> Message:
    if not isinstance(value, dict):
        raise BadRowError("not_messages", f"{what} is no object with role and content")
    # In Parquet files every message has the fields of all, null where it has none.
    name = value.get("from") if value.get("role") is None else value["role"]
    if (role := _ROLES.get(name) if isinstance(name, str) else None) is None:
        raise BadRowError(
            "unknown_role", f"{what} is of role {name!r}; allowed: {', '.join(_ROLES)}"
        )
    content = value.get("value") if value.get("content") is None else value["content"]
    content = as_text(content, f"the content of {what}")
    train = value.get("train")
    if train not in (None, True, False):
        raise BadRowError("not_a_flag", f"`train` of {what} is {train!r}; allowed: true, false")
    return Message(role, content, train is None or bool(train))


def prompt_of(value: Any, what: str) -> list[Message]:
    """Return a prompt, a text or a list of messages, as messages that are not predicted.

    Raises:
        BadRowError: it is neither, or empty.
    """
    if _holds_messages(value):
        return [each._replace(train=False) for each in read_messages(value, what)]
    if not (text := as_text(value, what)).strip():
        raise BadRowError("empty_prompt", f"{what} is empty")
    return [Message(USER, text, train=False)]


def answer_of(value: Any, what: str) -> list[Message]:
    """Return an answer, a text or a list of messages, as messages.

    Raises:
        BadRowError: it is neither.
    """
    if _holds_messages(value):
        return read_messages(value, what)
    return [Message(ASSISTANT, as_text(value, what))]


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
        and all(isinstance(item, dict) and item.keys() - {"train"} in _KEYS for item in items)
    )


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
