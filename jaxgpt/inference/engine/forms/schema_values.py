"""Values in JSON schemas that llguidance 1.9 takes and follows in another way."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

# Larger whole numbers lose digits in the 64-bit floats that llguidance computes with.
LARGEST = 2**53 - 1
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")
_TEXTS = ("const", "enum")
_NUMBERS = (*_LOWER, *_UPPER, "multipleOf", *_TEXTS)
# Options of llguidance. Without escapes by \u a name can be written in one way only, so that no
# property of the schema comes again as another one. What passes json_schema.py has only `oneOf`
# that means what `anyOf` does.
OPTIONS = {"json_allowed_escapes": 'bfnrt"\\', "coerce_one_of": True}
_LONG = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")
_IN_PLACE = frozenset({"$ref", "allOf", "anyOf", "oneOf"})


def keyword_with_large_number(schema: dict[str, Any]) -> str | None:
    """Return the keyword of a schema in whose value stands a number beyond `LARGEST`."""
    for name in _NUMBERS:
        if any(_is_number(each) and abs(each) > LARGEST for each in _parts(schema.get(name))):
            return name
    return None


def keyword_with_long_escape(schema: dict[str, Any]) -> str | None:
    """Return the keyword of a schema in whose value stands a text that JSON writes with `\\u`."""
    for name in _TEXTS:
        if any(isinstance(each, str) and _LONG.search(each) for each in _parts(schema.get(name))):
            return name
    return None


def may_merge(schema: dict[str, Any], enforced: Iterable[str]) -> bool:
    """Return whether a value may have to follow several schemas at once.

    llguidance then makes one schema of them, here and in the schemas of properties and items.

    Args:
        schema: a schema without those that hold it.
        enforced: names of the keywords that say something about the value.
    """
    names = [name for name in schema if name in enforced]
    if not _IN_PLACE.isdisjoint(names):
        own = [name for name in names if name != "allOf"]
        return len(own) + _length(schema.get("allOf")) > 1
    return _length(schema.get("patternProperties")) + ("properties" in schema) > 1


class Bounds:
    """Bounds that may come to stand in one schema.

    Args:
        schemas: those that may be merged, or a single one.
    """

    def __init__(self, schemas: Iterable[dict[str, Any]]) -> None:
        given = list(schemas)
        self._lower = set(_given(given, _LOWER))
        self._upper = set(_given(given, _UPPER))

    def passing(self, schema: dict[str, Any]) -> str | None:
        """Return the exclusive bound of a schema that llguidance takes for an inclusive one.

        It does so with a whole number whose other bound has the same whole part: 3 passes
        `exclusiveMinimum` 3 with `maximum` 3.5.
        """
        if schema.get("type") == "integer":
            return None
        for name, others in (("exclusiveMinimum", self._upper), ("exclusiveMaximum", self._lower)):
            bound = schema.get(name)
            if _is_number(bound) and any(0 < abs(other - bound) < 1 for other in others):
                return name
        return None


def _given(schemas: Iterable[dict[str, Any]], names: tuple[str, ...]) -> Iterator[float]:
    """Yield the numbers that schemas have under some keywords."""
    for schema in schemas:
        for name in names:
            if _is_number(value := schema.get(name)):
                yield value


def _parts(value: Any) -> Iterator[Any]:
    """Yield what a value of JSON holds at any depth, names too, but for lists and objects."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            waiting += [*found, *found.values()]
        elif isinstance(found, list):
            waiting += found
        else:
            yield found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0
