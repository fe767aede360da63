"""Free text in which calls begin: the text stays free, and the calls are whole and valid."""

import json
import random
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from jaxgpt.inference.engine.forms.begun_calls import BegunCalls
from jaxgpt.inference.engine.forms.call_grammar import begun_call_grammar
from jaxgpt.inference.engine.forms.grammar import Grammars
from jaxgpt.inference.engine.forms.json_schema import GrammarError
from jaxgpt.inference.engine.forms.tag_spelling import TagSpelling
from jaxgpt.inference.engine.request import pack_mask
from jaxgpt.tokenizer.call_reader import CallReader
from jaxgpt.tokenizer.tool_calls import CALL, Call
from tests.inference.engine.forms.drawn_schemas import as_parameters, grammars, schemas

pytest.importorskip("llguidance", reason="needs: pip install -e '.[serve]'")
jsonschema = pytest.importorskip("jsonschema", reason="needs: pip install -e '.[dev]'")

PARTS = ["<", CALL[:5], CALL[:-1], CALL[5:], CALL[-1:]]
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
# Pieces next to the single bytes: parts of tags, whole tags, and tags with text around them.
PIECES = {
    "bytes": [],
    "parts": [
        "<tool",
        "ool_c",
        "all>",
        "l>\n",
        "l>\n{",
        "ll>x",
        "</tool_call",
        ">\n",
        ">\n<",
        "x<",
    ],
    "whole": [
        CALL,
        f'{CALL}\n{{"na',
        f" {CALL}",
        f"{CALL}\n\n",
        f">\n{CALL}",
        "</tool_call>\n",
    ],
}


class Pieces:
    """A tokenizer of the bytes and some pieces, the longest first."""

    special_ids: ClassVar = {"pad": 0, "bos": 1, "eos": 2}
    bos_id, eos_id = 1, 2

    def __init__(self, pieces: Iterable[str]) -> None:
        single = [bytes([byte]) for byte in range(256)]
        self._pieces = [b""] * 3 + single + [piece.encode() for piece in pieces]
        self.vocab_size = len(self._pieces)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._pieces[id] for id in ids)

    def encode(self, text: str) -> list[int]:
        return self.spell(text.encode(), np.ones(self.vocab_size, bool))

    def spell(self, rest: bytes, allowed_V: np.ndarray) -> list[int]:
        """Return ids of a text, of which the first is the longest one that is allowed."""
        ids = list[int]()
        while rest:
            fitting = [id for id in range(3, self.vocab_size) if rest.startswith(self._pieces[id])]
            if not ids:
                fitting = [id for id in fitting if allowed_V[id]]
            ids.append(max(fitting, key=lambda id: len(self._pieces[id])))
            rest = rest[len(self._pieces[ids[-1]]) :]
        return ids


@cache
def vocabulary(name: str) -> tuple[Any, Grammars, TagSpelling]:
    tokenizer: Any = Pieces(PIECES[name])
    return tokenizer, Grammars(tokenizer, tokenizer.eos_id), TagSpelling(tokenizer, CALL)


class Answer:
    """Draws an answer as the engine does: several tokens between two masks where that is allowed.

    Args:
        name: of the vocabulary.
        constraint: of the answer.
    """

    def __init__(self, name: str, constraint: BegunCalls) -> None:
        self.tokenizer, self.constraint, self.ids = vocabulary(name)[0], constraint, list[int]()
        self.is_over = False

    def write(self, text: str) -> None:
        """Write a text with the longest pieces that are allowed."""
        rest = text.encode()
        while rest and not self.is_over:
            allowed = self.allowed()
            size = self.constraint.horizon() if allowed.all() else 1
            for id in self.tokenizer.spell(rest, allowed)[:size]:
                self.add(id)
                rest = rest.removeprefix(self.tokenizer.decode_bytes([id]))
        assert not rest

    def end(self, rng: random.Random, most: int) -> None:
        """Draw until the answer may end, or has some tokens."""
        while not self.is_over and len(self.ids) < most:
            allowed = self.allowed()
            if allowed[self.tokenizer.eos_id]:
                return
            self.add(rng.choice(np.flatnonzero(allowed).tolist()))

    def add(self, id: int) -> None:
        self.is_over = id == self.tokenizer.eos_id or self.constraint.advance(id)
        self.ids.append(id)

    def allowed(self) -> np.ndarray:
        size = self.tokenizer.vocab_size
        words_W = pack_mask(np.ones(size, bool))
        before_W = words_W.copy()
        if not self.constraint.fill(words_W):
            assert (words_W == before_W).all()
        return np.unpackbits(words_W.view(np.uint8), bitorder="little")[:size].astype(bool)

    @property
    def text(self) -> str:
        return self.tokenizer.decode_bytes(self.ids).decode(errors="replace")


def begin(name: str, parameters: dict[str, Any], is_single: bool = False, **function: Any) -> Any:
    _, made, tag = vocabulary(name)
    function |= {"name": "f", "parameters": parameters}
    grammar = begun_call_grammar(made, [function])
    return Answer(name, BegunCalls(tag, made.constraint(grammar), is_single))


def read(text: str) -> list[str | Call]:
    reader = CallReader(["f"])
    return [*reader.feed(text), *reader.flush()]


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(PIECES)),
    texts=st.lists(
        st.sampled_from([*PARTS, CALL, f"{CALL}\n\n", f"{CALL}x", "l", "\n", " é"]),
        max_size=12,
    ),
    seed=st.integers(0, 99),
)
def test_whatever_is_written_each_tag_begins_a_call(name: str, texts: list[str], seed: int) -> None:
    answer, rng = begin(name, NOTHING), random.Random(seed)
    ids = answer.tokenizer.encode("".join(texts))
    while ids and not answer.is_over:
        allowed = answer.allowed()
        size = answer.constraint.horizon() if allowed.all() else 1
        for id in ids[:size]:
            # What a mask forbids is replaced by something that it allows.
            answer.add(id if allowed[id] else rng.choice(np.flatnonzero(allowed).tolist()))
        ids = ids[size:]
    # A call that has begun comes to its end.
    answer.end(rng, len(answer.ids) + 60)
    calls = [each for each in read(answer.text) if isinstance(each, Call)]
    event(f"calls: {min(len(calls), 3)}")
    assert answer.text.count(CALL) == len(calls)


@settings(max_examples=60, deadline=None)
@given(schema=schemas, seed=st.integers(0, 2**32), name=st.sampled_from(sorted(PIECES)))
def test_arguments_follow_the_schema(schema: dict[str, Any], seed: int, name: str) -> None:
    parameters = as_parameters(schema)
    try:
        grammars().json_schema(parameters)
    except GrammarError:
        return
    answer = begin(name, parameters, is_single=True)
    answer.write(f"so <tool {CALL}")
    answer.end(random.Random(seed), most=300)
    event("ended" if answer.is_over else "cut off")
    if answer.is_over:
        text, call = read(answer.text)
        assert (text, call[0]) == ("so <tool ", "f")
        jsonschema.Draft202012Validator(parameters).validate(json.loads(call[1]))


def test_text_before_and_between_calls_is_free() -> None:
    whole = f'{CALL}\n{{"name": "f", "arguments": {{}}}}\n</tool_call>'
    text = f"<tool é {CALL[:-1]} {whole}\n{whole} and 🎉 <{whole}"
    for name in PIECES:
        answer = begin(name, NOTHING)
        answer.write(text)
        assert (answer.text, answer.is_over) == (text, False)
        # Bytes that are no text are as free as without tools.
        assert answer.allowed()[answer.tokenizer.encode("é")].all()
        assert answer.allowed()[answer.tokenizer.eos_id]
        single = begin(name, NOTHING, is_single=True)
        single.write(f"<tool {whole}")
        assert (read(single.text), single.is_over) == (["<tool ", Call("f", "{}")], True)


def test_the_tag_is_as_far_away_as_its_shortest_spelling() -> None:
    steps = {name: [vocabulary(name)[2].steps(begun) for begun in (0, 5, 10)] for name in PIECES}
    # "x<" begins it, and then come "t", "ool_c" and "all>"; "<tool", "_", "c", "all>" are as many.
    assert steps == {"bytes": [11, 6, 1], "parts": [4, 3, 1], "whole": [1, 1, 1]}


LOOSE = {"type": "object", "properties": {"a": {"type": "integer"}}, "not": {}}


@pytest.mark.parametrize(
    ("parameters", "strict", "allowed"),
    [
        ({"type": "object", "additionalProperties": False}, None, False),
        ({"type": "object", "additionalProperties": False}, False, False),
        (LOOSE, None, True),
        (LOOSE, False, True),
    ],
)
def test_a_function_that_is_not_strict_may_take_any_object(
    parameters: dict[str, Any], strict: bool | None, allowed: bool
) -> None:
    answer = begin("bytes", parameters, strict=strict)
    answer.write(f'{CALL}\n{{"name": "f", "arguments": {{')
    assert answer.allowed()[answer.tokenizer.encode('"')[0]] == allowed


def test_a_strict_function_is_followed_or_refused() -> None:
    with pytest.raises(GrammarError, match="the parameters of 'f': keyword 'not' at '#'"):
        begin("bytes", LOOSE, strict=True)
