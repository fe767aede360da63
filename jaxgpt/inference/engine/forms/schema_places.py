"""Places of the schemas in a JSON schema, as JSON pointers."""

from collections.abc import Iterator
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


def escaped(key: str) -> str:
    """Return a name as a JSON pointer has it (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
