"""Places of the schemas in a JSON schema, as JSON pointers."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "patternProperties", "properties")
_SINGLE = ("additionalItems", "additionalProperties", "items")


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
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
                waiting += [(f"{place}/{name}/{escaped(key)}", value[key]) for key in value]


def target(schema: dict[str, Any]) -> str | None:
    """Return the place that a schema refers to by a JSON pointer, None if it does not."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference in ("", "#") or reference.startswith("#/")):
        return unquote(reference) or "#"
    return None


def renamed_reference(schemas: Mapping[str, dict[str, Any]]) -> tuple[str, str] | None:
    """Return the places of a JSON pointer below the top's, and of the name it starts from.

    Below an `$id` (`id` in draft 4) a pointer starts from there, not from the top.

    Args:
        schemas: by their places, each behind the one that holds it.
    """
    named: dict[str, str] = {}
    for place, schema in schemas.items():
        if place == "#":
            continue
        holder = named.get(place.rsplit("/", 1)[0]) or named.get(place.rsplit("/", 2)[0])
        has_name = any(isinstance(schema.get(key), str) for key in ("$id", "id"))
        own = place if has_name else None
        if (name := own or holder) is not None:
            named[place] = name
            if target(schema) is not None:
                return place, name
    return None


def escaped(key: str) -> str:
    """Return a name as a JSON pointer has it (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
