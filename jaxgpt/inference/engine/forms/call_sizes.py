"""Functions with small schemas keep them: a large grammar takes long to compile."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.inference.engine.forms.call_grammar import ANY, is_strict
from jaxgpt.inference.engine.forms.json_schema import GrammarError
from jaxgpt.inference.engine.forms.schema_places import subschemas
from jaxgpt.tokenizer.tool_calls import json_text

logger = logging.getLogger(__name__)

# What a description says makes no grammar larger.
_SAYS_NOTHING = ("$comment", "default", "description", "examples", "title")
# The signs around a keyword and its value.
_SIGNS = len(json_text({"a": 1, "b": 1})) - len(json_text({"a": 1})) - len("b1")


def of_allowed_size(
    functions: Sequence[Mapping[str, Any]], most: int, must_follow: bool
) -> list[Mapping[str, Any]]:
    """Return functions of which some take any object, so that the schemas are small together.

    The strict ones are kept, and of the others, in their order, those for which there is room.

    Args:
        functions: definitions.
        most: characters that all schemas may have, without descriptions and the like.
        must_follow: whether one that does not say `strict` is.

    Raises:
        GrammarError: the strict ones are too large.
    """
    strict = [is_strict(each, must_follow) for each in functions]
    sizes = [_size(each.get("parameters") or {}) for each in functions]
    room = most - sum(size for size, must in zip(sizes, strict, strict=True) if must)
    if room < 0:
        raise GrammarError(
            f"the parameters of the functions have more than {most:,} characters together; "
            "leave some out, or set their strict to false"
        )
    kept = list[Mapping[str, Any]]()
    for function, size, must in zip(functions, sizes, strict, strict=True):
        is_followed = must or size <= room
        room -= size if is_followed and not must else 0
        kept.append(function if is_followed else {**function, "parameters": ANY})
    if (dropped := sum(each is not given for each, given in zip(kept, functions, strict=True))) > 0:
        logger.warning(
            "the parameters of %d functions have more than %d characters; the arguments of %d of "
            "them are any object",
            len(functions),
            most,
            dropped,
        )
    return kept


def _size(schema: dict[str, Any]) -> int:
    """Return the characters of a schema but those of its annotations."""
    said = [
        len(name) + len(json_text(found[name])) + _SIGNS
        for _, found in subschemas(schema)
        for name in _SAYS_NOTHING
        if name in found
    ]
    return len(json_text(schema)) - sum(said)
