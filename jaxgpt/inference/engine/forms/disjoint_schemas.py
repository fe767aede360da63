"""Proofs that no value fits two JSON schemas, by which `oneOf` means what `anyOf` does.

A proof reads types, constants and required properties, and follows `$ref`, `allOf` and the choices
of `anyOf`. Without one two schemas count as such that a value may fit both.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from jaxgpt.inference.engine.forms.schema_places import escaped, target

_NUMBER = frozenset({"integer", "fraction"})
_KINDS = frozenset({"null", "boolean", "object", "array", "string"}) | _NUMBER
_DEEPEST = 6
# Names and constants looked at in a document: a client may send thousands of pairs of schemas.
_MOST_STEPS = 500_000
# What a schema read, or a pair compared, costs besides its names.
_STEPS_OF_ONE = 10
Places = frozenset[str]


class TooManyStepsError(Exception):
    """A proof that was given up because it takes too long."""


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
        """Return the numbers of two schemas that a value may fit, None if no value fits two.

        Raises:
            TooManyStepsError: the proof would take too long.
        """
        given = [frozenset([place]) for place in places]
        facts = [self._read(each) for each in given]
        objects = [number for number, each in enumerate(facts) if each.kinds == {"object"}]
        is_tagged = self._have_tag([facts[number] for number in objects])
        for first, second in self._sharing(facts, set(objects) if is_tagged else set()):
            if not self._exclude(given[first], given[second], 0):
                return first, second
        return None

    def _spend(self, number: int) -> None:
        self._steps += number
        if self._steps > _MOST_STEPS:
            raise TooManyStepsError

    def _have_tag(self, objects: Sequence["_Facts"]) -> bool:
        """Return whether all objects need a property of which each has constants of its own."""
        names = set[str].intersection(*(each.required for each in objects)) if objects else set()
        for name in sorted(names):
            self._spend(len(objects))
            places = [found for each in objects if (found := each.properties.get(name))]
            if len(places) == len(objects):
                facts = [self._read(each) for each in places]
                if next(self._sharing(facts, set()), None) is None:
                    return True
        return False

    def _sharing(self, given: Sequence["_Facts"], apart: Set[int]) -> Iterator[tuple[int, int]]:
        """Yield the numbers of two schemas with a type, and constants if both have them, in common.

        Args:
            given: facts of the schemas.
            apart: numbers of schemas that are known to exclude each other; two are no pair.
        """
        seen = defaultdict[tuple[bool, Hashable], list[int]](list)
        for second, facts in enumerate(given):
            found = set[int]()
            for key in facts.sought():
                for is_apart in (False,) if second in apart else (False, True):
                    known = seen.get((is_apart, key), ())
                    self._spend(1 + len(known))
                    found.update(known)
            for first in sorted(found):
                yield first, second
            for key in facts.shown():
                seen[second in apart, key].append(second)

    def _exclude(self, a: Places, b: Places, depth: int) -> bool:
        """Return whether it is certain that no value fits all schemas of both places."""
        self._spend(_STEPS_OF_ONE)
        if depth > _DEEPEST:
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
        required = one.required | other.required
        self._spend(len(required))
        if one.forbids_any(required) or other.forbids_any(required):
            return True
        return any(
            self._exclude(one.properties[name], other.properties[name], depth + 1)
            for name in sorted(required & one.properties.keys() & other.properties.keys())
        )

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
                lists = (each for each in schema.values() if isinstance(each, list | dict))
                self._spend(_STEPS_OF_ONE + sum(map(len, lists)))
                if (referred := target(schema)) is not None:
                    waiting.append(referred)
                if "$ref" not in schema or self._keeps_siblings:
                    facts.add(place, schema)
                    waiting += _parts(place, schema, "allOf")
            facts.kinds = facts.common_kinds(facts)
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

    def sought(self) -> Iterator[Hashable]:
        """Yield what another schema must show for a value to fit both: a type or a constant."""
        if self.values is None:
            yield from ((kind, "any") for kind in self.kinds)
            return
        yield from ((kind, "unknown") for kind in self.kinds)
        yield from ((value, "constant") for value in self.values if value[0] in self.kinds)

    def shown(self) -> Iterator[Hashable]:
        """Yield what shows that a value may fit, as another schema seeks it."""
        yield from ((kind, "any") for kind in self.kinds)
        if self.values is None:
            yield from ((kind, "unknown") for kind in self.kinds)
        else:
            yield from ((value, "constant") for value in self.values if value[0] in self.kinds)

    def forbids_any(self, names: Set[str]) -> bool:
        """Return whether no object has properties of all these names."""
        return not self._impossible.isdisjoint(names) or any(
            not names <= closed for closed in self._closed
        )

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
