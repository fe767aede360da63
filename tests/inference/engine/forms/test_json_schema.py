"""Schemas are followed in every point, or refused by the name and the place of a keyword."""

import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from jaxgpt.inference.engine.forms.call_grammar import call_grammar
from jaxgpt.inference.engine.forms.json_schema import (
    ANNOTATIONS,
    ENFORCED,
    GrammarError,
    check_json_schema,
)
from jaxgpt.inference.engine.forms.schema_formats import FORMATS
from tests.inference.engine.forms.drawn_schemas import (
    allows,
    draw_text,
    grammars,
    optional_fields,
    schemas,
)

pytest.importorskip("llguidance", reason="needs: pip install -e '.[serve]'")
jsonschema = pytest.importorskip("jsonschema", reason="needs: pip install -e '.[dev]'")
# It knows every format.
formats = pytest.importorskip("jsonschema_rs", reason="needs: pip install -e '.[dev]'")

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
# Other keywords of the drafts, of OpenAPI and of nobody.
OTHERS = {
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary",
    "disallow", "extends", "divisibleBy", "nullable", "x-guidance", "maxLenght",
}  # fmt: skip


@settings(max_examples=150)
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_a_text_of_a_schema_that_is_taken_is_valid(schema: dict[str, Any], seed: int) -> None:
    try:
        grammar = grammars().json_schema(schema)
    except GrammarError:
        return
    text = draw_text(grammars().constraint(grammar), random.Random(seed), most=200)
    event(f"{'union' if 'discriminator' in schema else 'other'}: {text is not None}")
    if text is not None:
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
        validator.validate(json.loads(text))


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_text_has_its_format(name: str, seed: int) -> None:
    schema = {"type": "string", "format": name}
    constraint = grammars().constraint(grammars().json_schema(schema))
    text = draw_text(constraint, random.Random(seed), most=60)
    if text is not None:
        assert formats.validator_for(schema, validate_formats=True).is_valid(json.loads(text))
        jsonschema.Draft202012Validator.FORMAT_CHECKER.check(json.loads(text), name)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0004-02-29", "9999-12-31", "2023-02-28"],
         ["2023-02-29", "2100-02-29", "2024-02-30", "2023-04-31", "0000-01-01"]),
        ("date-time", ["2024-02-29t00:00:00z", "2023-12-31T23:59:59.5-12:00"],
         ["2023-02-29T00:00:00Z", "1998-12-31T22:59:60Z"]),
        ("time", ["23:59:59Z"], ["22:59:60Z", "24:00:00Z"]),
        ("email", ["a.b+c@d-e.org", f"{'x' * 64}@b.c"], [f"{'x' * 65}@b.c", f"a@{'b' * 64}.c"]),
        ("hostname", ["a-b.c", "ab", "a-b-c.d"], ["ab--c.d", "a.xn--x", "a-", "x" * 64]),
    ],
)  # fmt: skip
def test_the_limits_of_a_format(name: str, good: list[str], bad: list[str]) -> None:
    # Alone, and with another condition.
    for schema in ({}, {"allOf": [{"maxLength": 200}]}):
        grammar = grammars().json_schema({"type": "string", "format": name, **schema})
        for text in [*good, *bad]:
            assert allows(grammar, json.dumps(text)) == (text in good), text
        for text in good:
            assert formats.validator_for({"format": name}, validate_formats=True).is_valid(text)


def places_of(schema: Any, place: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schemas in a schema of this file, each with its place."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for name in ("additionalProperties", "items"):
        yield from places_of(schema.get(name), f"{place}/{name}")
    for name in ("anyOf", "allOf", "oneOf", "prefixItems"):
        for number, each in enumerate(schema.get(name, ())):
            yield from places_of(each, f"{place}/{name}/{number}")
    for name in ("properties", "patternProperties", "$defs"):
        for key, each in schema.get(name, {}).items():
            key = key.replace("~", "~0").replace("/", "~1")
            yield from places_of(each, f"{place}/{name}/{key}")


CAT = {"properties": {"kind": {"const": "cat"}}, "required": ["kind"], "type": "object"}
DOG = {"properties": {"kind": {"enum": ["dog", "hound"]}}, "type": "object"}


@pytest.mark.parametrize(
    ("one", "other", "is_taken"),
    [
        (CAT, DOG, True),
        (CAT, {**DOG, "properties": {"kind": {"enum": ["dog", "cat"]}}}, False),
        # Without a required property, an object without it fits both.
        ({**CAT, "required": []}, DOG, False),
        # What is no object fits a schema without a type.
        ({"properties": CAT["properties"], "required": ["kind"]}, {"required": ["kind"]}, False),
        (CAT, {"type": "object", "additionalProperties": False}, True),
        (CAT, {"type": "object", "properties": {"kind": False}}, True),
        (CAT, {"type": ["null", "string"]}, True),
        (CAT, {"anyOf": [DOG, {"type": "null"}]}, True),
        (CAT, {"anyOf": [DOG, CAT]}, False),
        (CAT, {"allOf": [{"type": "object"}, DOG]}, True),
        ({"type": "integer"}, {"type": "number"}, False),
        ({"type": "integer"}, {"const": 1.0}, False),
        ({"type": "integer"}, {"const": 1.5}, True),
        ({"const": 1}, {"const": True}, True),
        ({"const": [1]}, {"const": [2]}, False),
        ({"enum": ["a", 1]}, {"enum": ["b", None]}, True),
        ({"type": "string", "enum": ["a", 1]}, {"enum": [1]}, True),
        ({}, {"type": "string"}, False),
    ],
)
@pytest.mark.parametrize("by_reference", [False, True])
def test_one_of_is_taken_where_no_value_fits_two(
    one: dict[str, Any], other: dict[str, Any], is_taken: bool, by_reference: bool
) -> None:
    schema: dict[str, Any] = {"oneOf": [one, other, {"type": "boolean", "enum": [False]}]}
    if by_reference:
        schema = {"$defs": {"a": one, "b": {"$ref": "#/$defs/c"}, "c": other}}
        schema["oneOf"] = [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]
        schema["discriminator"] = {"propertyName": "kind"}
    if not is_taken:
        assert "may fit its schemas 0 and 1 at once" in (refusal(schema) or "")
    else:
        grammars().json_schema(schema)


def object_with(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


MANY = range(400)
NAMES = {"type": "object", "required": [f"n{n}" for n in range(1500)]}


@pytest.mark.parametrize(
    ("branches", "error"),
    [
        ([{"const": f"zone{n}", "title": "x"} for n in MANY], None),
        ([*({"const": n} for n in MANY), {"type": "string"}, {"const": 399.0}],
         "a value may fit its schemas 399 and 401 at once"),
        ([*(object_with(a={}, tag={"const": n}) for n in MANY), {"type": "null"}], None),
        ([*(object_with(tag={"const": n}) for n in MANY), object_with(tag={"enum": [5, "x"]})],
         "its schemas have too many pairs to compare"),
        ([{"$ref": "#/$defs/names"} for _ in range(60)], "schemas 0 and 1 at once"),
        ([{"$ref": "#/$defs/names", **object_with(a={"anyOf": [{"const": n}, {"const": -n}]})}
          for n in range(1, 61)], "its schemas have too many pairs to compare"),
    ],
)  # fmt: skip
def test_large_unions_are_told_apart_by_their_constants(
    branches: list[dict[str, Any]], error: str | None
) -> None:
    found = refusal({"oneOf": branches, "$defs": {"names": NAMES}})
    assert found is None if error is None else error in (found or "")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog", "hound"]
    friend: Cat | None


class Fish(BaseModel):
    kind: Literal["fish"]
    depth: Annotated[float, Field(ge=0, le=9)] = 1.0


def test_the_unions_of_pydantic_are_followed() -> None:
    mammal: Any = Annotated[Cat | Dog, Field(discriminator="kind")]
    pet: Any = Annotated[mammal | Fish, Field(discriminator="kind")]
    union: TypeAdapter[Any] = TypeAdapter(pet)
    schema = union.json_schema()
    assert {"$ref": "#/$defs/Fish"} in schema["oneOf"]
    grammar = grammars().json_schema(schema)
    # More would make numbers, and the names of other properties, too long.
    texts = [draw_text(grammars().constraint(grammar), random.Random(n), 300) for n in range(40)]
    kinds = {type(union.validate_json(text)) for text in texts if text is not None}
    assert kinds == {Cat, Dog, Fish}


@settings(max_examples=60)
@given(
    schema=schemas,
    name=st.sampled_from(sorted(OTHERS)) | st.text(max_size=9),
    number=st.integers(0, 99),
)
def test_another_keyword_is_refused_by_name_wherever_it_stands(
    schema: dict[str, Any], name: str, number: int
) -> None:
    assume(name not in ENFORCED | ANNOTATIONS and (name in OTHERS or not name.startswith("x-")))
    assume(refusal(schema) is None)
    # Not two places for one schema, as may be drawn.
    schema = json.loads(json.dumps(schema))
    found = list(places_of(schema))
    place, inner = found[number % len(found)]
    inner[name] = {}
    with pytest.raises(GrammarError) as error:
        check_json_schema(schema)
    assert str(error.value).startswith(f"keyword {name!a} at {place!a} is not enforced")
    str(error.value).encode()


@settings(max_examples=50)
@given(schema=schemas, name=st.sampled_from(sorted(ANNOTATIONS - {"$schema"})) | st.just("x-own"))
def test_an_annotation_passes_wherever_it_stands(schema: dict[str, Any], name: str) -> None:
    # Such a name changes what a reference below it means.
    assume(name not in ("$id", "id") or "$ref" not in json.dumps(schema))
    annotated = copy.deepcopy(schema)
    for _, inner in list(places_of(annotated)):
        inner.setdefault(name, "any")
    assert refusal(annotated) == refusal(schema)


def refusal(schema: dict[str, Any]) -> str | None:
    try:
        check_json_schema(schema)
    except GrammarError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"items": {"format": "x"}}, "keyword 'format' at '#/items' is not enforced here: 'x'"),
        ({"format": "unknown"}, "'unknown' is none of date, date-time"),
        ({"prefixItems": [{}], "additionalItems": False}, "items is no list of schemas"),
        ({"prefixItems": [{}], "items": [{}]}, "the list is given by items"),
        ({"$schema": DRAFT_7, "prefixItems": [{}]}, "keyword 'prefixItems' at '#'"),
        ({"anyOf": [{"$schema": "x"}]}, "keyword '$schema' at '#/anyOf/0'"),
        ({"minProperties": 2, "required": ["a"]}, "a name may come twice"),
        ({"properties": {"a": {"$ref": "#/default"}}, "default": {"new": 1}},
         "$ref '#/default' at '#/properties/a' names no schema"),
        ({"exclusiveMinimum": 3, "maximum": 3.5}, "another bound is less than 1 away"),
        ({"minimum": -0.5, "exclusiveMaximum": 0}, "keyword 'exclusiveMaximum' at '#'"),
        ({"x-guidance": {"lenient": True}}, "keyword 'x-guidance' at '#'"),
        ({"\ud800": 1}, r"keyword '\ud800' at '#'"),
        ({"items": {"enum": [1, {"a": [2**53 + 1]}]}}, "keyword 'enum' at '#/items'"),
        ({"type": "integer", "maximum": 2**63 - 1}, "numbers beyond +-9007199254740991 lose"),
        ({"const": ["a\x01"]}, "a text has a control character"),
        ({"$ref": "#"}, "$ref '#' at '#' leads in a circle"),
        ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
          "properties": {"a": {"$ref": "#/$defs/a"}}}, "at '#/properties/a' leads in a circle"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "leads in a circle"),
        ({"type": "object", "properties": {"a/b": {"$ref": "#"}}, "required": ["a/b"]},
         "at '#/properties/a~1b' leads in a circle that no value ends"),
        ({"items": {"$ref": "#"}, "type": "array", "minItems": 1}, "at '#/items' leads in"),
        ({"properties": {"a": {"pattern": "(?i)a"}}}, "keyword 'pattern' at '#/properties/a'"),
        ({"patternProperties": {"^[^a&&b]$": {}}}, "'[^a&&b]' means something else to Rust"),
        ({"pattern": "[[:alpha:]]"}, "'[[:alpha:]' means something else"),
        ({"pattern": "^[]a]$"}, "'[]' means something else"),
        ({"pattern": r"\Aa"}, r"'\\A' means something else"),
        ({"pattern": r"[\x{41}]"}, r"means something else"),
        ({"pattern": "(?=a)"}, "look-ahead"),
        ({"items": {"oneOf": [{"const": 1}, {"type": "integer"}, {"type": "number"}]}},
         "keyword 'oneOf' at '#/items' is not enforced here: a value may fit its schemas 0 and 1"),
        ({"oneOf": [{"$id": "http://x/a", "$defs": {"b": {"const": 1}}, "$ref": "#/$defs/b"},
          {"type": "integer", "const": 1}], "$defs": {"b": {"const": 2}}},
         "$ref '#/$defs/b' at '#/oneOf/0' starts from the $id (or id) at '#/oneOf/0', not from"),
        ({"properties": {"a": {"id": "b", "items": {"$ref": "#"}}}}, "(or id) at '#/properties/a'"),
        ({"$ref": "https://example.com/x"}, "does not fetch"),
        ({"minimum": float("nan")}, "cannot be written as JSON"),
        ("[1]", "no object; allowed"),
        ("{", "not JSON"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_refused(schema: Any, error: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(error)):
        grammars().json_schema(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "pattern": r"^\d\w$"}, '"1a"', '"٣a"'),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "0.5", "0"),
        ({"type": "object", "minProperties": 1}, '{"a":1}', "{}"),
        ({"items": [{"type": "null"}], "additionalItems": False, "type": "array"}, "[null]", "[1]"),
        ({"$defs": {"a b": {"const": 1}}, "$ref": "#/$defs/a%20b"}, "1", "2"),
        ({"type": "string", "format": "date"}, '"2026-11-30"', '"2026-13-30"'),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, '{"b":1}', r'{"\u0061":1}'),
        ({"type": "integer", "maximum": 2**53 - 1}, "9007199254740991", "9007199254740992"),
        ({"$defs": {"a": {"anyOf": [{"const": 1}, {"type": "array", "items": {"$ref": "#"}}]}},
          "$ref": "#/$defs/a"}, "[1,[1]]", "[2]"),
        ({"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
          "required": ["a"]}, '{"a":{"a":null}}', '{"a":{}}'),
        ({"type": "string", "pattern": r"^(?:[\[&\-]|a\.)$"}, '"["', '"ab"'),
        ({"type": "array", "prefixItems": [{"type": "number", "exclusiveMinimum": 3},
          {"maximum": 3.5, "type": "number"}]}, "[3.5,3]", "[3]"),
    ],
)  # fmt: skip
def test_what_is_followed(schema: dict[str, Any], good: str, bad: str) -> None:
    grammar = grammars().json_schema(schema)
    assert allows(grammar, good)
    assert not allows(grammar, bad)


bounds = st.sampled_from([-3.5, -3, -0.5, 0, 0.5, 1, 2.9, 3, 3.5])


@settings(max_examples=60)
@given(
    lower=optional_fields(minimum=bounds, exclusiveMinimum=bounds),
    upper=optional_fields(maximum=bounds, exclusiveMaximum=bounds),
    placed=st.sampled_from(
        [
            lambda lower, upper: {**lower, **upper},
            lambda lower, upper: {"allOf": [lower, upper]},
            lambda lower, upper: {"$ref": "#/$defs/a", "$defs": {"a": lower}, **upper},
            lambda lower, upper: {"anyOf": [{"anyOf": [lower]}], **upper},
        ]
    ),
)
def test_a_bound_passes_only_where_it_is_valid(
    lower: dict[str, float], upper: dict[str, float], placed: Any
) -> None:
    schema = placed({"type": "number", **lower}, {"type": "number", **upper})
    try:
        grammar = grammars().json_schema(schema)
    except GrammarError:
        return
    for bound in {*lower.values(), *upper.values()}:
        if allows(grammar, repr(bound)):
            jsonschema.Draft202012Validator(schema).validate(bound)


def test_arguments_that_cannot_be_followed_are_any_object_unless_they_must_be() -> None:
    functions = [{"name": "f", "strict": False, "parameters": {"properties": {"a": {"not": {}}}}}]
    grammar = call_grammar(grammars(), functions, is_single=True)
    call = '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>'
    assert allows(grammar, call % '{"a": 1}')
    assert not allows(grammar, call % "1")
    functions[0]["parameters"] = {"properties": {"a": {"type": "null"}}}
    grammar = call_grammar(grammars(), functions, is_single=True)
    assert allows(grammar, call % '{"a": null}')
    assert not allows(grammar, call % '{"a": 1}')


def test_an_error_of_a_tool_names_the_function() -> None:
    functions = [{"name": name, "parameters": {"minProperties": "1"}} for name in ("f", "g")]
    functions[0]["parameters"] = {}
    with pytest.raises(GrammarError, match=r"the parameters of 'g': .*minProperties"):
        call_grammar(grammars(), functions, is_single=True)
