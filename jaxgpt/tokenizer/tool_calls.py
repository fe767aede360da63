"""Tools in a conversation as text: definitions, calls, results.

The form is that of Hermes and Qwen 2.5. The system message lists the definitions as JSON, one a
line, between `<tools>` tags; the assistant writes each call as JSON between `<tool_call>` tags; the
results come in a message of the user, each between `<tool_response>` tags. All of it is text: a
tokenizer needs no further control tokens, and a user who types these tags writes them as well.
So a conversation with tools becomes messages of chat_template.py, which knows no tools;
call_reader.py finds the calls of an answer again.
"""

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from jaxgpt.errors import BadInputError
from jaxgpt.tokenizer.chat_template import ASSISTANT, SYSTEM, USER, Message

TOOL = "tool"
BEFORE_TOOLS = "You can call tools. Each line between these tags describes one as JSON.\n<tools>"
AFTER_TOOLS = (
    "\n</tools>\nTo call a tool, write its name and its arguments as JSON between such tags:\n"
    '<tool_call>\n{"name": "NAME", "arguments": {}}\n</tool_call>'
)
CALL = "<tool_call>"
END_OF_CALL = "</tool_call>"
RESULT = "<tool_response>\n"
END_OF_RESULT = "\n</tool_response>"
# Definitions of tools, each an object as OpenAI's API has it.
Tools = Sequence[Mapping[str, Any]]
_FOLLOWING = {
    # An answer is read alone too, after a prompt that ends with the user.
    None: (SYSTEM, USER, ASSISTANT),
    SYSTEM: (USER,),
    USER: (ASSISTANT,),
    ASSISTANT: (USER, TOOL),
    TOOL: (TOOL, ASSISTANT),
}


class Call(NamedTuple):
    """A call of a tool.

    Attributes:
        name: the tool's.
        arguments: the JSON of an object.
        id: by which a result names its call.
    """

    name: str
    arguments: str
    id: str | None = None


class Turn(NamedTuple):
    """A message of a conversation with tools; `role` may be `tool`, for the result of a call.

    Attributes:
        content: text.
        train: whether an assistant's message is predicted, its calls too.
        calls: those of an assistant's message.
        call_id: the `id` of the call that a result belongs to.
    """

    role: str
    content: str
    train: bool = True
    calls: tuple[Call, ...] = ()
    call_id: str | None = None


def read_call(value: Any) -> Call:
    """Return a call out of OpenAI's form, or of one with `name` and `arguments` at the top.

    Arguments may be an object or its JSON, which stays as it is written.

    Raises:
        BadInputError: the value is neither.
    """
    function = (value.get("function") or value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str):
        raise BadInputError("a call is no object with a function's name and arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = json_text(dict(arguments))
    if not isinstance(arguments, str) or not is_json_object(arguments):
        raise BadInputError("the arguments of a call are neither an object nor the JSON of one")
    call_id = value.get("id")
    return Call(name, arguments, call_id if isinstance(call_id, str) else None)


def plain_messages(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> list[Message]:
    """Return the messages of the chat template that a conversation with tools is.

    Results are put in the order of their calls, as far as ids name these.

    Raises:
        BadInputError: roles are out of order, or a result belongs to no call.
    """
    if not tools and not any(turn.role == TOOL or turn.calls for turn in turns):
        return [Message(*turn[:3]) for turn in turns]
    _check_order(turns)
    messages, place = [], 0
    if tools:
        given = turns[0].content if turns and turns[0].role == SYSTEM else ""
        messages.append(Message(SYSTEM, _system_text(given, tools)))
        place = int(bool(turns) and turns[0].role == SYSTEM)
    while place < len(turns):
        turn = turns[place]
        if turn.role != TOOL:
            messages.append(Message(turn.role, turn.content + _calls_text(turn), turn.train))
            place += 1
            continue
        stop = place
        while stop < len(turns) and turns[stop].role == TOOL:
            stop += 1
        results = _ordered(turns[place:stop], turns[place - 1].calls, place)
        texts = [f"{RESULT}{result.content}{END_OF_RESULT}" for result in results]
        messages.append(Message(USER, "\n".join(texts)))
        place = stop
    return messages


def json_text(value: Any) -> str:
    """Return a value as the template writes JSON: as `tojson` of transformers does.

    Raises:
        BadInputError: it has a number that is not finite, or too many levels.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise BadInputError(
            "a tool or call cannot be written as JSON: a number that is not finite, or too many "
            "levels"
        ) from None


def is_json_object(text: str) -> bool:
    """Return whether a text is the JSON of an object, without what JSON does not have."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        return False


def _system_text(given: str, tools: Tools) -> str:
    lines = "".join("\n" + json_text(dict(tool)) for tool in tools)
    return f"{given}\n\n" * bool(given) + BEFORE_TOOLS + lines + AFTER_TOOLS


def _calls_text(turn: Turn) -> str:
    """Return the calls of a message as they follow its content."""
    texts = [
        f'{CALL}\n{{"name": {json_text(call.name)}, "arguments": {call.arguments}}}\n{END_OF_CALL}'
        for call in turn.calls
    ]
    return "\n" * bool(turn.content and texts) + "\n".join(texts)


def _check_order(turns: Sequence[Turn]) -> None:
    previous = None
    calls: tuple[Call, ...] = ()
    for number, turn in enumerate(turns, 1):
        allowed = _FOLLOWING[previous]
        if turn.role not in allowed:
            names = " or ".join(map(repr, allowed))
            hint = "; the results of tools follow the assistant's calls" * (turn.role == TOOL)
            raise BadInputError(
                f"message {number} is of role {turn.role!r}, where {names} is due{hint}"
            )
        if turn.role == ASSISTANT:
            calls = turn.calls
        elif turn.role == TOOL and not calls:
            raise BadInputError(
                f"message {number} is the result of a tool, and the assistant called none before it"
            )
        previous = turn.role


def _ordered(results: Sequence[Turn], calls: Sequence[Call], place: int) -> list[Turn]:
    """Return results in the order of their calls.

    Raises:
        BadInputError: a result names no call, or one that has its result, or there are more
            results than calls.
    """
    if len(results) > len(calls):
        raise BadInputError(
            f"message {place + len(calls) + 1} is a result, and all calls before it have theirs"
        )
    # Of calls that share an id, the first gets the first result.
    places: dict[str, list[int]] = {}
    for number, call in enumerate(calls):
        if call.id is not None:
            places.setdefault(call.id, []).append(number)
    found: list[int] = []
    for number, result in enumerate(results, place + 1):
        if result.call_id is None or not places:
            continue
        left = places.get(result.call_id)
        if left is None:
            raise BadInputError(f"message {number} is the result of no call of the message before")
        if not left:
            raise BadInputError(f"message {number} is a second result of one call")
        found.append(left.pop(0))
    if len(found) < len(results):
        return list(results)
    return [result for _, result in sorted(zip(found, results, strict=True), key=itemgetter(0))]
