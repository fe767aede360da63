"""Tools in rows: the definitions that a conversation has, and the calls of a message."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.forms.form import BadRowError, as_text, parsed
from jaxgpt.tokenizer.tool_calls import Call, Tools, json_text, read_call


def read_tools(values: Mapping[str, Any], name: str) -> Tools:
    """Return the definitions in a field: a list of objects, or its JSON; none if it has nothing.

    Raises:
        BadRowError: the field has something else.
    """
    value = _without_gaps(values.get(name), "bad_tool", repr(name))
    if value is None or value == []:
        return ()
    if not isinstance(value, list):
        raise BadRowError("bad_tool", f"{name!r} is no list of tools, nor the JSON of one")
    for number, tool in enumerate(value, 1):
        function = (tool.get("function") or tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRowError("bad_tool", f"tool {number} of {name!r} is no object with a name")
        try:
            as_text(json_text(tool), f"tool {number} of {name!r}")
        except BadInputError as error:
            raise BadRowError("bad_tool", f"tool {number} of {name!r}: {error}") from None
    return tuple(value)


def read_calls(value: Any, what: str) -> tuple[Call, ...]:
    """Return the calls of a message; `what` names the message in errors.

    Raises:
        BadRowError: one of them is no call.
    """
    value = _without_gaps(value, "bad_call", f"`tool_calls` of {what}")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRowError("bad_call", f"`tool_calls` of {what} is no list")
    try:
        calls = tuple(read_call(each) for each in value)
    except BadInputError as error:
        raise BadRowError("bad_call", f"{what}: {error}") from None
    for call in calls:
        as_text(call.name + call.arguments, f"a call of {what}")
    return calls


def _without_gaps(value: Any, reason: str, what: str) -> Any:
    """Return a value without what stands for nothing in tables; JSON stays as it is written.

    A blank text is an empty cell of a CSV file. In Parquet files an object has the fields of all
    rows, null where it has none.

    Raises:
        BadRowError: it has too many levels.
    """
    if isinstance(value, str):
        return parsed(value) if value.strip() else None
    try:
        return _without_nulls(value)
    except RecursionError:
        raise BadRowError(reason, f"{what} has too many levels") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
