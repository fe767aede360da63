"""JSON schemas that can be followed to the letter, and the refusal of others by keyword and place.

llguidance (1.9, docs/json_schema.md and parser/src/json/) enforces some keywords and refuses some
of the others. What no draft of JSON Schema knows passes it in silence, and so do keywords of a
draft that is not the schema's; a text that it makes then breaks the schema. So every keyword must
be one that it enforces, or one that says nothing about the value.
"""

import json
from collections.abc import Iterator
from typing import Any, TypeGuard
from urllib.parse import unquote

from jaxgpt.errors import BadInputError

_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "patternProperties", "properties")
_SINGLE = ("additionalItems", "additionalProperties", "items")
ENFORCED = frozenset(
    {
        "$ref", "additionalItems", "additionalProperties", "allOf", "anyOf", "const", "enum",
        "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength",
        "maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum",
        "multipleOf", "oneOf", "pattern", "patternProperties", "prefixItems", "properties",
        "required", "type",
    }
)  # fmt: skip
# Also those of OpenAPI: `discriminator` only names the property by which to choose.
ANNOTATIONS = frozenset(
    {
        "$anchor", "$comment", "$defs", "$id", "$schema", "contentEncoding", "contentMediaType",
        "contentSchema", "default", "definitions", "deprecated", "description", "discriminator",
        "example", "examples", "externalDocs", "id", "readOnly", "title", "writeOnly", "xml",
    }
)  # fmt: skip
FORMATS = frozenset(
    {
        "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
    }
)  # fmt: skip
# Options of llguidance, among them one that follows a schema in part.
_OPTIONS = "x-guidance"
_LONGEST = 100


class GrammarError(BadInputError):
    """A schema, expression or grammar that cannot be followed."""


def parse_json_schema(text: str) -> dict[str, Any]:
    """Return a schema out of its text.

    Raises:
        GrammarError: the text is not JSON, or no object.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise GrammarError('the schema is no object; allowed: keywords, as in {"type": "string"}')
    return schema


def schema_text(schema: dict[str, Any]) -> str:
    """Return the text of a schema.

    Raises:
        GrammarError: a number is not finite, or the schema has too many levels.
    """
    try:
        return json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the schema cannot be written as JSON: {error}") from None


def check_json_schema(schema: dict[str, Any]) -> None:
    """Check that every keyword of a schema is enforced or says nothing about the value.

    Keywords with values of a wrong type are left to llguidance, which names them.

    Raises:
        GrammarError: a keyword, format or reference that is not followed; the error names it and
            its place, as a JSON pointer.
    """
    has_prefixes = _has_prefixes(schema)
    places, references = set(), []
    for place, found in _subschemas(schema):
        places.add(place)
        for name in found:
            if name not in ENFORCED and not _is_annotation(name):
                raise GrammarError(
                    f"keyword {_shown(name)} at {_shown(place)} is not enforced here; leave it "
                    f"out (enforced: {', '.join(sorted(ENFORCED))})"
                )
        _check_values(found, place, has_prefixes)
        references.append((place, found.get("$ref")))
    for place, reference in references:
        # Anchors and the names of embedded schemas are left to llguidance.
        is_pointer = isinstance(reference, str) and reference.startswith("#/")
        if is_pointer and unquote(reference) not in places:
            raise GrammarError(f"$ref {_shown(reference)} at {_shown(place)} names no schema")


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each schema in a schema that is an object, with its place."""
    waiting: list[tuple[str, Any]] = [("#", schema)]
    while waiting:
        place, found = waiting.pop()
        if not isinstance(found, dict):
            continue
        yield place, found
        for name in _SINGLE:
            value = found.get(name)
            if isinstance(value, list):
                waiting += [(f"{place}/{name}/{n}", each) for n, each in enumerate(value)]
            else:
                waiting.append((f"{place}/{name}", value))
        for name in _LISTS:
            if isinstance(value := found.get(name), list):
                waiting += [(f"{place}/{name}/{n}", each) for n, each in enumerate(value)]
        for name in _MAPS:
            if isinstance(value := found.get(name), dict):
                waiting += [(f"{place}/{name}/{_escaped(key)}", value[key]) for key in value]


def _check_values(schema: dict[str, Any], place: str, has_prefixes: bool) -> None:
    """Refuse values that llguidance takes and does not enforce.

    Raises:
        GrammarError: the first of them.
    """

    def refuse(name: str, reason: str) -> None:
        raise GrammarError(f"keyword {name!r} at {_shown(place)} is not enforced here: {reason}")

    if isinstance(kind := schema.get("format"), str) and kind not in FORMATS:
        refuse("format", f"{_shown(kind)} is none of {', '.join(sorted(FORMATS))}")
    is_tuple = isinstance(schema.get("items"), list)
    if "additionalItems" in schema and not is_tuple:
        refuse("additionalItems", "items is no list of schemas")
    if "prefixItems" in schema and (is_tuple or not has_prefixes):
        refuse("prefixItems", "the list is given by items in drafts before 2020-12")
    if "$schema" in schema and place != "#":
        refuse("$schema", "it stands at the top alone")
    if (bound := _bound_that_passes(schema)) is not None:
        refuse(bound, "the other bound is less than 1 away; give an inclusive bound")
    least, required = schema.get("minProperties"), schema.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > max(1, num_required):
        refuse("minProperties", "a name may come twice; name the properties in required")


def _bound_that_passes(schema: dict[str, Any]) -> str | None:
    """Return the exclusive bound of a number that llguidance 1.9 takes for an inclusive one.

    It does so with a whole number whose other bound has the same whole part: 3 passes
    `exclusiveMinimum` 3 with `maximum` 3.5.
    """
    if schema.get("type") == "integer":
        return None
    for name, others in (
        ("exclusiveMinimum", ("maximum", "exclusiveMaximum")),
        ("exclusiveMaximum", ("minimum", "exclusiveMinimum")),
    ):
        bound = schema.get(name)
        for other in (schema.get(each) for each in others):
            if _is_number(bound) and _is_number(other) and 0 < abs(other - bound) < 1:
                return name
    return None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_prefixes(schema: dict[str, Any]) -> bool:
    """Return whether the schema's draft, the latest unless it names one, has `prefixItems`."""
    draft = schema.get("$schema")
    return not isinstance(draft, str) or "2020-12" in draft


def _is_annotation(name: str) -> bool:
    """Return whether a keyword says nothing about the value; so do OpenAPI's extensions."""
    return name in ANNOTATIONS or (name.startswith("x-") and name != _OPTIONS)


def _escaped(key: str) -> str:
    """Return a name as a JSON pointer has it (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _shown(text: str) -> str:
    """Return a text in quotes, cut, without control characters and lone surrogates."""
    return ascii(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
