"""Schemas to draw, a small vocabulary, and texts that a constraint over it allows."""

import random
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from jaxgpt.inference.engine.forms.grammar import Grammars
from jaxgpt.inference.engine.forms.schema_formats import FORMATS
from jaxgpt.inference.engine.request import ConstraintError, TokenConstraint
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(['{"a": [1, true]}' * 9], TokenizerConfig(vocab_size=300))


@cache
def grammars() -> Grammars:
    return Grammars(tokenizer(), tokenizer().eos_id)


def draw_text(constraint: TokenConstraint, draw: random.Random, most: int) -> str | None:
    """Return a text that a constraint allows, None if it has not ended after `most` tokens."""
    ids = list[int]()
    words_W = np.zeros(-(-tokenizer().vocab_size // 32), np.uint32)
    while len(ids) < most:
        assert constraint.fill(words_W)
        allowed = np.flatnonzero(np.unpackbits(words_W.view(np.uint8), bitorder="little"))
        ids.append(draw.choice(allowed.tolist()))
        if ids[-1] == tokenizer().eos_id or constraint.advance(ids[-1]):
            return tokenizer().decode([id for id in ids if id != tokenizer().eos_id])
    return None


def allows(grammar: str, text: str) -> bool:
    """Return whether the bytes of a text are one that a grammar allows."""
    constraint = grammars().constraint(grammar)
    try:
        for byte in text.encode():
            constraint.advance(byte_ids()[byte])
    except ConstraintError:
        return False
    return constraint._matcher.is_accepting()


@cache
def byte_ids() -> dict[int, int]:
    """Return the ids of the tokens of a single byte."""
    every = {tokenizer().decode_bytes([id]): id for id in range(tokenizer().vocab_size)}
    return {byte: every[bytes([byte])] for byte in range(256) if bytes([byte]) in every}


names = st.sampled_from(["a", "b", "ab", "a/b~"])
small = st.integers(0, 3)


def optional_fields(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def _with(kind: str, fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return fields.map(lambda given: {**given, "type": kind})


leaves = st.one_of(
    _with("integer", optional_fields(minimum=small, maximum=small, multipleOf=st.integers(1, 3))),
    _with("number", optional_fields(exclusiveMinimum=small, maximum=st.floats(0, 9))),
    _with("string", optional_fields(minLength=small, maxLength=st.integers(2, 5))),
    _with(
        "string",
        optional_fields(pattern=st.sampled_from([r"^\d{2}$", "a|b", r"^\w\s.$", "^[^a]?$"])),
    ),
    _with("string", optional_fields(format=st.sampled_from(sorted(FORMATS)))),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from([None, 1, "x", [2], {}]), min_size=1)}),
    st.fixed_dictionaries({"const": st.sampled_from([True, 1.5, 'q"\n', {"a": [None]}])}),
    st.sampled_from(
        [{"type": ["null", "boolean"]}, {"title": "any", "maxLength": 2, "type": "null"}]
    ),
)


def _extended(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = _with(
        "object",
        optional_fields(
            properties=st.dictionaries(names, inner, max_size=3),
            patternProperties=st.dictionaries(st.just("^z"), inner, max_size=1),
            additionalProperties=inner | st.just(False),
            required=st.lists(names, max_size=2, unique=True),
            minProperties=small,
            maxProperties=small,
        ),
    )
    arrays = _with(
        "array",
        optional_fields(
            items=inner | st.just(False),
            prefixItems=st.lists(inner, min_size=1, max_size=2),
            minItems=small,
            maxItems=st.integers(2, 4),
        ),
    )
    lists = st.lists(inner, min_size=1, max_size=2)
    several = st.sampled_from(["anyOf", "allOf", "oneOf"]).flatmap(
        lambda name: lists.map(lambda given: {name: given})
    )
    return objects | arrays | several


def _recursive(given: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose definition holds itself."""
    again = {"type": "array", "items": {"$ref": "#/$defs/d"}, "maxItems": 1}
    return {"$defs": {"d": {"anyOf": [given, again]}}, "$ref": "#/$defs/d"}


def as_parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a function with one argument."""
    inner = {name: value for name, value in schema.items() if name != "$defs"}
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {
        "type": "object", "properties": {"a": inner}, "required": ["a"],
        "additionalProperties": False, **definitions,
    }  # fmt: skip


def _union(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return `oneOf` of references to objects with a constant each, which may be the same."""
    tags = st.sampled_from([{"const": "x"}, {"const": 1}, {"enum": ["x", "y"]}, {"type": "null"}])
    branch = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["object", "object", ["object", "null"]]),
            "properties": st.fixed_dictionaries({"t": tags}, optional={"u": inner}),
        },
        optional={"required": st.just(["t"]), "additionalProperties": st.just(False)},
    )
    return st.lists(branch, min_size=2, max_size=3).map(
        lambda given: {
            "oneOf": [{"$ref": f"#/$defs/{number}"} for number in range(len(given))],
            "discriminator": {"propertyName": "t"},
            "$defs": {str(number): each for number, each in enumerate(given)},
        }
    )


def _named(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return `oneOf` of two schemas; a reference in one may start from a name of its own."""
    branch = st.fixed_dictionaries(
        {"$defs": st.fixed_dictionaries({"b": inner}), "$ref": st.just("#/$defs/b")},
        optional={"$id": st.just("http://x/a")},
    )
    return st.fixed_dictionaries(
        {"oneOf": st.tuples(branch, inner).map(list), "$defs": st.fixed_dictionaries({"b": inner})}
    )


plain = st.recursive(leaves, _extended, max_leaves=5)
schemas = plain | plain.map(_recursive) | _union(leaves) | _named(leaves)
