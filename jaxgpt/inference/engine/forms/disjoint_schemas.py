"""Proofs that no value fits two JSON schemas, by which `oneOf` means what `anyOf` does.

A proof reads types, constants and required properties, and follows `$ref`, `allOf` and the choices
of `anyOf`. Without one two schemas count as such that a value may fit both.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxgpt.inference.engine.forms.schema_places import escaped, target

_NUMBER = frozenset({"integer", "fraction"})
_KINDS = frozenset({"null", "boolean", "object", "array", "string"}) | _NUMBER
_DEEPEST = 6
# Comparisons of two schemas; a client may send a schema with thousands of pairs.
_MOST_STEPS = 50_000
Places = frozenset[str]


class DisjointSchemas:
    """Tells which of some schemas exclude each other.

    Args:
        schemas: all schemas of a document by their places, as JSON pointers.
        keeps_siblings: whether keywords next to a `$ref` count, as they do since 2019-09.
    """

    def __init__(self, schemas: Mapping[str, dict[str, Any]], keeps_siblings: bool) -> None:
        self._schemas = schemas
        self._keeps_siblings = keeps_siblings
        self._facts: dict[Places, _Facts] = {}
        self._steps = 0

    def overlap(self, places: Iterable[str]) -> tuple[int, int] | None:
        """Return the numbers of two schemas that a value may fit, None if no value fits two."""
        given = [frozenset([place]) for place in places]
        for second, b in enumerate(given):
            for first, a in enumerate(given[:second]):
                if not self._exclude(a, b, 0):
                    return first, second
        return None

    def _exclude(self, a: Places, b: Places, depth: int) -> bool:
        """Return whether it is certain that no value fits all schemas of both places."""
        self._steps += 1
        if depth > _DEEPEST or self._steps > _MOST_STEPS:
            return False
        one, other = self._read(a), self._read(b)
        kinds = one.common_kinds(other)
        if not kinds:
            return True
        if kinds == {"object"} and self._property_excludes(one, other, depth):
            return True
        return any(
            all(self._exclude(frozenset([each]), rest, depth + 1) for each in choice)
            for facts, rest in ((one, b), (other, a))
            for choice in facts.choices
        )

    def _property_excludes(self, one: "_Facts", other: "_Facts", depth: int) -> bool:
        for name in one.required | other.required:
            if one.forbids(name) or other.forbids(name):
                return True
            a, b = one.properties.get(name), other.properties.get(name)
            if a and b and self._exclude(a, b, depth + 1):
                return True
        return False

    def _read(self, places: Places) -> "_Facts":
        """Return what all schemas at some places say together."""
        if places not in self._facts:
            facts, waiting, seen = _Facts(), list(places), set[str]()
            while waiting:
                place = waiting.pop()
                schema = self._schemas.get(place)
                if place in seen or schema is None:
                    continue
                seen.add(place)
                if (referred := target(schema)) is not None:
                    waiting.append(referred)
                if "$ref" not in schema or self._keeps_siblings:
                    facts.add(place, schema)
                    waiting += _parts(place, schema, "allOf")
            self._facts[places] = facts
        return self._facts[places]


class _Facts:
    """Facts about a value that some schemas state together.

    Attributes:
        kinds: types that it may have; `fraction` is a number that is not whole.
        values: constants that it may be, as pairs of a kind and a value; those of lists and of
            objects are not told apart. None: not known.
        required: names of properties that an object has.
        properties: places of the schemas of properties.
        choices: places of the schemas of each `anyOf` and `oneOf`.
    """

    def __init__(self) -> None:
        self.kinds = _KINDS
        self.values: frozenset[tuple[str, Any]] | None = None
        self.required: set[str] = set()
        self.properties: dict[str, Places] = {}
        self.choices: list[Places] = []
        self._closed: list[set[str]] = []
        self._impossible: set[str] = set()

    def add(self, place: str, schema: dict[str, Any]) -> None:
        """Take one more schema."""
        self.kinds &= _kinds(schema.get("type"))
        constant = [schema["const"]] if "const" in schema else None
        for given in (constant, schema.get("enum")):
            if isinstance(given, list):
                values = frozenset(map(_value, given))
                self.values = values if self.values is None else self.values & values
        if isinstance(required := schema.get("required"), list):
            self.required |= {name for name in required if isinstance(name, str)}
        given = schema.get("properties")
        properties = given if isinstance(given, dict) else {}
        for name, inner in properties.items():
            here = f"{place}/properties/{escaped(name)}"
            self.properties[name] = self.properties.get(name, frozenset()) | {here}
            self._impossible |= {name} if inner is False else set()
        if schema.get("additionalProperties") is False and not schema.get("patternProperties"):
            self._closed.append(set(properties))
        self.choices += [
            frozenset(parts) for key in ("anyOf", "oneOf") if (parts := _parts(place, schema, key))
        ]

    def forbids(self, name: str) -> bool:
        """Return whether no object has a property of some name."""
        return name in self._impossible or any(name not in names for names in self._closed)

    def common_kinds(self, other: "_Facts") -> frozenset[str]:
        """Return the types of values that may fit these schemas and others."""
        kinds = self.kinds & other.kinds
        known = [values for values in (self.values, other.values) if values is not None]
        if not known:
            return kinds
        return kinds & {kind for kind, _ in frozenset.intersection(*known)}


def _parts(place: str, schema: dict[str, Any], name: str) -> list[str]:
    """Return the places of the schemas in a list."""
    given = schema.get(name)
    return [f"{place}/{name}/{n}" for n in range(len(given))] if isinstance(given, list) else []


def _kinds(given: Any) -> frozenset[str]:
    """Return the types that `type` allows; of a value that is none, all."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return _KINDS
    return frozenset().union(*(_NUMBER if name == "number" else {name} for name in names))


def _value(given: Any) -> tuple[str, Any]:
    """Return a type and a value; equal numbers are one value, as in JSON Schema."""
    if isinstance(given, list | dict):
        return ("array" if isinstance(given, list) else "object"), None
    if isinstance(given, str):
        return "string", given
    if isinstance(given, bool) or given is None:
        return ("null" if given is None else "boolean"), given
    return ("integer" if given % 1 == 0 else "fraction"), given
