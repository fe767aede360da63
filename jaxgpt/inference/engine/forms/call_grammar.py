"""Grammars of calls of tools, in the form of tokenizer/tool_calls.py."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxgpt.inference.engine.forms.grammar import Grammars
from jaxgpt.inference.engine.forms.json_schema import GrammarError, schema_text
from jaxgpt.inference.engine.forms.schema_formats import with_exact_formats
from jaxgpt.inference.engine.forms.schema_values import OPTIONS
from jaxgpt.tokenizer.tool_calls import CALL, END_OF_CALL

# White space as the template writes JSON, so that calls have the tokens of training data.
_AS_WRITTEN = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    **OPTIONS,
}
# A function without parameters, as OpenAI's API defines it.
_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
# Any arguments.
ANY = {"type": "object"}


def call_grammar(
    grammars: Grammars, functions: Sequence[Mapping[str, Any]], is_single: bool
) -> str:
    """Return the grammar of an answer that is calls of some functions.

    Args:
        grammars: makes the grammar.
        functions: each with a name, and perhaps the JSON schema of its `parameters`, which its
            arguments follow. Where it cannot be followed they are any object if `strict` is false.
        is_single: whether there is one call; otherwise at least one.

    Raises:
        GrammarError: the schema of a function cannot be followed in every point.
    """
    schemas = [_arguments(grammars, each, is_strict(each, True)) for each in functions]
    more = "" if is_single else f" ({_quoted(chr(10))} call)*"
    lines = [f"start: call{more}", f"call: {_quoted(CALL)} rest"]
    return grammars.lark("\n".join([*lines, *_rest_of_call(functions, schemas)]))


def begun_call_grammar(grammars: Grammars, functions: Sequence[Mapping[str, Any]]) -> str:
    """Return the grammar of what follows the tag that begins a call, up to its end.

    Args:
        grammars: makes the grammar.
        functions: as for `call_grammar`. The arguments of one whose schema cannot be followed are
            any object, unless `strict` is true: so OpenAI's API defines a function without it.

    Raises:
        GrammarError: the schema of a strict function cannot be followed in every point.
    """
    schemas = [_arguments(grammars, each, is_strict(each, False)) for each in functions]
    return grammars.lark("\n".join(["start: rest", *_rest_of_call(functions, schemas)]))


def _rest_of_call(
    functions: Sequence[Mapping[str, Any]], schemas: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Yield the rules of a call behind its first tag: the function and its arguments."""
    names = " | ".join(f"f{number}" for number in range(len(functions)))
    yield f"rest: {_quoted(chr(10))} ({names}) {_quoted(chr(10) + END_OF_CALL)}"
    for number, (function, schema) in enumerate(zip(functions, schemas, strict=True)):
        name = json.dumps(function["name"], ensure_ascii=False)
        begin = f'{{"name": {name}, "arguments": '
        yield f"f{number}: {_quoted(begin)} a{number} {_quoted('}')}"
        yield f"a{number}: %json {schema_text({'x-guidance': _AS_WRITTEN, **schema})}"


def is_strict(function: Mapping[str, Any], by_default: bool) -> bool:
    """Return whether a function whose schema cannot be followed is refused."""
    given = function.get("strict")
    return by_default if given is None else given


def _arguments(
    grammars: Grammars, function: Mapping[str, Any], must_follow: bool
) -> dict[str, Any]:
    """Return the schema of a function's arguments, or of any object where it is not followed."""
    try:
        return _parameters(grammars, function)
    except GrammarError:
        if must_follow:
            raise
        return ANY


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
    return with_exact_formats(schema)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
