"""The grammar of an answer that must be calls of tools, in the form of tokenizer/tool_calls.py."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.inference.engine.forms.grammar import Grammars
from jaxgpt.inference.engine.forms.json_schema import GrammarError, schema_text
from jaxgpt.inference.engine.forms.schema_values import ESCAPES
from jaxgpt.tokenizer.tool_calls import CALL, END_OF_CALL

# White space as the template writes JSON, so that calls have the tokens of training data.
_AS_WRITTEN = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    **ESCAPES,
}
# A function without parameters, as OpenAI's API defines it.
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def call_grammar(
    grammars: Grammars, functions: Sequence[Mapping[str, Any]], is_single: bool
) -> str:
    """Return the grammar of calls of some functions, whose arguments follow their schemas.

    Args:
        grammars: makes the grammar.
        functions: each with a name, and perhaps the JSON schema of its `parameters`.
        is_single: whether there is one call; otherwise at least one.

    Raises:
        GrammarError: the schema of a function cannot be followed in every point.
    """
    places = range(len(functions))
    lines = [
        f"start: call{'' if is_single else f' ({_quoted(chr(10))} call)*'}",
        f"call: {_quoted(CALL + chr(10))} ({' | '.join(f'f{n}' for n in places)}) "
        + _quoted(chr(10) + END_OF_CALL),
    ]
    for number, function in enumerate(functions):
        name = function["name"]
        begin = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
        schema = _parameters(grammars, function)
        lines.append(f"f{number}: {_quoted(begin)} a{number} {_quoted('}')}")
        lines.append(f"a{number}: %json {schema_text({'x-guidance': _AS_WRITTEN, **schema})}")
    return grammars.lark("\n".join(lines))


def _parameters(grammars: Grammars, function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a function's arguments.

    Raises:
        GrammarError: it cannot be followed, or is not of an object.
    """
    schema = function.get("parameters") or _NOTHING
    name = ascii(function["name"])
    if schema.get("type", "object") != "object":
        raise GrammarError(f"the parameters of {name} are of another type; allowed: object")
    schema = {"type": "object", **schema}
    try:
        # Alone, so that an error of llguidance's is known to be of this function.
        grammars.json_schema(schema)
    except GrammarError as error:
        raise GrammarError(f"the parameters of {name}: {error}") from None
    return schema


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
