"""JSON schemas that can be followed to the letter, and the refusal of others by keyword and place.

llguidance (1.9, docs/json_schema.md and parser/src/json/) enforces some keywords and refuses some
of the others. What no draft of JSON Schema knows passes it in silence, and so do keywords of a
draft that is not the schema's; a text that it makes then breaks the schema. So every keyword must
be one that it enforces, or one that says nothing about the value.
"""

import json
from collections import defaultdict
from typing import Any, NoReturn

from jaxgpt.errors import BadInputError
from jaxgpt.inference.engine.forms.disjoint_schemas import (
    DisjointSchemas,
    TooManyStepsError,
)
from jaxgpt.inference.engine.forms.schema_formats import FORMATS
from jaxgpt.inference.engine.forms.schema_patterns import other_meaning
from jaxgpt.inference.engine.forms.schema_places import (
    escaped,
    renamed_reference,
    subschemas,
    target,
)
from jaxgpt.inference.engine.forms.schema_values import (
    LARGEST,
    Bounds,
    keyword_with_large_number,
    keyword_with_long_escape,
    may_merge,
)

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
    schemas = dict(subschemas(schema))
    has_prefixes = _has_prefixes(schema)
    merges = any(may_merge(each, ENFORCED) for each in schemas.values())
    all_bounds = Bounds(schemas.values()) if merges else None
    for place, found in schemas.items():
        for name in found:
            if name not in ENFORCED and not _is_annotation(name):
                raise GrammarError(
                    f"keyword {_shown(name)} at {_shown(place)} is not enforced here; leave it "
                    f"out (enforced: {', '.join(sorted(ENFORCED))})"
                )
        _check_values(found, place, has_prefixes)
        _check_texts(found, place)
        _check_numbers(found, place, all_bounds or Bounds([found]))
    _check_references(schemas)
    _check_choices(schemas, has_prefixes)


def _check_choices(schemas: dict[str, dict[str, Any]], is_new: bool) -> None:
    """Refuse `oneOf` where a value may fit two of its schemas: it is followed as `anyOf` is.

    Raises:
        GrammarError: the first of them.
    """
    disjoint = DisjointSchemas(schemas, keeps_siblings=is_new)
    advice = "give them different types, or a required property with different constants, or "
    advice += "use anyOf"
    for place, schema in schemas.items():
        if not isinstance(given := schema.get("oneOf"), list):
            continue
        try:
            found = disjoint.overlap(f"{place}/oneOf/{number}" for number in range(len(given)))
        except TooManyStepsError:
            _refuse("oneOf", place, f"its schemas have too many pairs to compare; {advice}")
        if found is not None:
            pair = f"a value may fit its schemas {found[0]} and {found[1]} at once"
            _refuse("oneOf", place, f"{pair}; {advice}")


def _check_references(schemas: dict[str, dict[str, Any]]) -> None:
    """Refuse references to no schema, and those that lead in a circle to no value.

    Args:
        schemas: by their places.

    Raises:
        GrammarError: the first of them.
    """
    if (renamed := renamed_reference(schemas)) is not None:
        place, name = renamed
        reference = _shown(schemas[place]["$ref"])
        raise GrammarError(
            f"$ref {reference} at {_shown(place)} starts from the $id (or id) at "
            f"{_shown(name)}, not from the top; leave that name out"
        )
    for place, schema in schemas.items():
        # Anchors and the names of embedded schemas are left to llguidance.
        if (found := target(schema)) is not None and found not in schemas:
            name = _shown(schema["$ref"])
            raise GrammarError(f"$ref {name} at {_shown(place)} names no schema")
    circular = _circular(schemas)
    for place, schema in circular.items():
        if target(schema) in circular:
            name = _shown(schema["$ref"])
            raise GrammarError(
                f"$ref {name} at {_shown(place)} leads in a circle that no value ends; leave a "
                "property out of required, or give anyOf with another schema"
            )


def _circular(schemas: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the schemas that no value can follow to its end, because of their references.

    A schema is looked at again only when one that it waits for has ended: schemas come from
    clients, and a chain of references may have any order.
    """
    circular, waiting = dict(schemas), defaultdict[str | None, list[str]](list)
    for place, schema in schemas.items():
        waiting[target(schema)].append(place)
    # Those that are held stand behind those that hold them.
    for place in reversed(schemas):
        if _ends(place, circular):
            del circular[place]
    queue = list(circular)
    while queue:
        place = queue.pop()
        if place in circular and _ends(place, circular):
            del circular[place]
            queue += [*waiting[place], place.rsplit("/", 1)[0], place.rsplit("/", 2)[0]]
    return circular


def _ends(place: str, circular: dict[str, dict[str, Any]]) -> bool:
    """Return whether a value can follow a schema without one that may be circular."""
    schema = circular[place]

    def ends(name: str) -> list[bool]:
        given = schema.get(name)
        number = len(given) if isinstance(given, list) else 0
        return [f"{place}/{name}/{n}" not in circular for n in range(number)]

    either = all(any(given) for name in ("anyOf", "oneOf") if (given := ends(name)))
    parts = all(part not in circular for part in _needed(place, schema))
    return target(schema) not in circular and all(ends("allOf")) and either and parts


def _needed(place: str, schema: dict[str, Any]) -> list[str]:
    """Return the places of the properties and items that each value of a schema has."""
    kind, required = schema.get("type"), schema.get("required")
    if kind == "object" and isinstance(required, list):
        return [f"{place}/properties/{escaped(key)}" for key in required if isinstance(key, str)]
    least, first = schema.get("minItems"), schema.get("prefixItems")
    if kind != "array" or not isinstance(least, int):
        return []
    num_first = len(first) if isinstance(first, list) else 0
    needed = [f"{place}/prefixItems/{number}" for number in range(min(least, num_first))]
    return [*needed, f"{place}/items"] if least > num_first else needed


def _check_values(schema: dict[str, Any], place: str, has_prefixes: bool) -> None:
    """Refuse values that llguidance takes and does not enforce.

    Raises:
        GrammarError: the first of them.
    """
    if isinstance(kind := schema.get("format"), str) and kind not in FORMATS:
        _refuse("format", place, f"{_shown(kind)} is none of {', '.join(sorted(FORMATS))}")
    is_tuple = isinstance(schema.get("items"), list)
    if "additionalItems" in schema and not is_tuple:
        _refuse("additionalItems", place, "items is no list of schemas")
    if "prefixItems" in schema and (is_tuple or not has_prefixes):
        _refuse("prefixItems", place, "the list is given by items in drafts before 2020-12")
    if "$schema" in schema and place != "#":
        _refuse("$schema", place, "it stands at the top alone")
    least, required = schema.get("minProperties"), schema.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    if isinstance(least, int) and least > max(1, num_required):
        _refuse("minProperties", place, "a name may come twice; name the properties in required")


def _check_texts(schema: dict[str, Any], place: str) -> None:
    """Refuse expressions of another syntax, and texts that no answer can hold.

    Raises:
        GrammarError: the first of them.
    """
    patterns = [("pattern", schema.get("pattern"))]
    if isinstance(given := schema.get("patternProperties"), dict):
        patterns += [("patternProperties", pattern) for pattern in given]
    for name, pattern in patterns:
        if isinstance(pattern, str) and (part := other_meaning(pattern)) is not None:
            _refuse(
                name,
                place,
                f"{_shown(part)} means something else to Rust's regex, which reads it; write what "
                "JavaScript and Rust read alike, signs in a class with a backslash before them",
            )
    if (name := keyword_with_long_escape(schema)) is not None:
        _refuse(name, place, r"a text has a control character other than \b, \f, \n, \r, \t")


def _check_numbers(schema: dict[str, Any], place: str, bounds: Bounds) -> None:
    """Refuse numbers that llguidance takes and changes.

    Raises:
        GrammarError: the first of them.
    """
    if (name := keyword_with_large_number(schema)) is not None:
        _refuse(name, place, f"numbers beyond +-{LARGEST} lose digits; choose smaller ones")
    if (bound := bounds.passing(schema)) is not None:
        _refuse(bound, place, "another bound is less than 1 away; give an inclusive bound")


def _refuse(name: str, place: str, reason: str) -> NoReturn:
    raise GrammarError(f"keyword {name!r} at {_shown(place)} is not enforced here: {reason}")


def _has_prefixes(schema: dict[str, Any]) -> bool:
    """Return whether the schema's draft, the latest unless it names one, has `prefixItems`."""
    draft = schema.get("$schema")
    return not isinstance(draft, str) or "2020-12" in draft


def _is_annotation(name: str) -> bool:
    """Return whether a keyword says nothing about the value; so do OpenAPI's extensions."""
    return name in ANNOTATIONS or (name.startswith("x-") and name != _OPTIONS)


def _shown(text: str) -> str:
    """Return a text in quotes, cut, without control characters and lone surrogates."""
    return ascii(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
