"""Answers of a given form: a JSON schema, a regular expression, a grammar, or one of some texts.

llguidance keeps the automaton and says at each step which tokens can still lead to a whole text;
this file gives it our vocabulary, and its masks to the engine. What it does not enforce is refused
by name (json_schema.py), never followed in part.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgpt.inference.engine.forms.json_schema import (
    GrammarError,
    check_json_schema,
    parse_json_schema,
    schema_text,
)
from jaxgpt.inference.engine.forms.schema_formats import with_exact_formats
from jaxgpt.inference.engine.forms.schema_values import OPTIONS
from jaxgpt.inference.engine.request import ConstraintError
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES
from jaxgpt.tokenizer.tokenizer import Tokenizer

# A model that is unsure spends its tokens on white space where that is free.
_COMPACT = {"whitespace_flexible": False, **OPTIONS}
# It warns of what json_schema.py has made certain.
_PROVEN = "oneOf not fully supported"


def import_llguidance(module: str = "") -> Any:
    """Return llguidance, or a module of it such as `.numpy`.

    Raises:
        ConfigError: it is not installed.
    """
    advice = install_advice("serve")
    return import_package(f"llguidance{module}", "an answer of a given form", advice)


class Grammars:
    """Grammars over the vocabulary of a tokenizer.

    Args:
        tokenizer: the model's.
        stop_id: the id that ends an answer; allowed where the text may end.

    Raises:
        ConfigError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, stop_id: int) -> None:
        self._package = import_llguidance()
        self._fill = import_llguidance(".numpy").fill_next_token_bitmask
        self._vocab_size = tokenizer.vocab_size
        wrapper = self._package.TokenizerWrapper(_Vocabulary(tokenizer, stop_id))
        self._tokenizer = self._package.LLTokenizer(wrapper)

    def json_schema(self, schema: dict[str, Any] | str) -> str:
        """Return the grammar of a JSON schema: an object, or the text of one.

        Raises:
            GrammarError: it cannot be followed in every point.
        """
        value = parse_json_schema(schema) if isinstance(schema, str) else schema
        check_json_schema(value)
        schema_text(value)  # Refuses what JSON cannot hold.
        text = schema_text(with_exact_formats(value))
        return self._make(
            lambda: self._package.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        )

    def regex(self, expression: str) -> str:
        """Return the grammar of texts that a regular expression matches as a whole."""
        return self._make(lambda: self._package.LLMatcher.grammar_from_regex(expression))

    def choice(self, texts: Sequence[str]) -> str:
        """Return the grammar of a text that is one of some."""
        lines = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return self.lark(f"start: {lines}")

    def lark(self, grammar: str) -> str:
        """Return a grammar that is written as Lark's are."""
        return self._make(lambda: self._package.LLMatcher.grammar_from_lark(grammar))

    def constraint(self, grammar: str) -> "GrammarConstraint":
        """Return a constraint of one answer to a grammar of this class."""
        return self.constraints(grammar, 1)[0]

    def constraints(self, grammar: str, number: int) -> list["GrammarConstraint"]:
        """Return constraints of several answers; the grammar is compiled once."""
        matcher = self._package.LLMatcher(self._tokenizer, grammar)
        return [
            GrammarConstraint(matcher.deep_copy(), self._fill, self._vocab_size)
            for _ in range(number)
        ]

    def _make(self, make: Any) -> str:
        """Return a grammar once it is known to be one that can be followed.

        Raises:
            GrammarError: it cannot; the reason names the keyword or place.
        """
        try:
            grammar = make()
        except ValueError as error:
            raise GrammarError(_told(error)) from None
        is_wrong, messages = self._package.LLMatcher.validate_grammar_with_warnings(
            grammar, self._tokenizer
        )
        told = [message for message in messages if is_wrong or not message.startswith(_PROVEN)]
        if is_wrong or told:
            raise GrammarError(_told(told[0] if told else "it is not valid"))
        return grammar


class GrammarConstraint:
    """A grammar that one answer follows; see `TokenConstraint`."""

    def __init__(
        self, matcher: Any, fill: Callable[[Any, np.ndarray, int], None], vocab_size: int
    ) -> None:
        self._matcher = matcher
        self._fill = fill
        self._vocab_size = vocab_size
        self._bits_1W = np.zeros((1, -(-vocab_size // 32)), np.int32)

    def fill(self, allowed_W: np.ndarray) -> bool:
        """Write which ids can still lead to a whole text."""
        try:
            self._fill(self._matcher, self._bits_1W, 0)
        except Exception as error:
            raise ConstraintError(f"the grammar cannot go on: {_told(error)}") from None
        if self._matcher.is_error():
            raise ConstraintError(_gave_up(self._matcher))
        allowed_W[:] = 0
        words_W = self._bits_1W[0].view(np.uint32)
        allowed_W[: len(words_W)] = words_W
        return True

    def horizon(self) -> int:
        """Return 1: each token decides what may follow."""
        return 1

    def copy(self) -> "GrammarConstraint":
        """Return a constraint of another answer, which goes on from here."""
        return GrammarConstraint(self._matcher.deep_copy(), self._fill, self._vocab_size)

    def allows(self, ids: Sequence[int]) -> bool:
        """Return whether a text may go on with some tokens."""
        return self._matcher.validate_tokens(list(ids)) == len(ids)

    def advance(self, token: int) -> bool:
        """Take a drawn token; return whether nothing can follow.

        Raises:
            ConstraintError: the automaton gave up, such as on a grammar that is too large.
        """
        if not self._matcher.consume_token(token):
            raise ConstraintError(_gave_up(self._matcher))
        return self._matcher.is_stopped()


class _Vocabulary:
    """The vocabulary as llguidance reads one."""

    def __init__(self, tokenizer: Tokenizer, stop_id: int) -> None:
        names = {number: CONTROL_PIECES[name] for name, number in tokenizer.special_ids.items()}
        self._encode = tokenizer.encode
        self.eos_token_id = stop_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = sorted(names)
        self.tokens = [
            b"\xff" + names[number].encode()
            if number in names
            else tokenizer.decode_bytes([number])
            for number in range(tokenizer.vocab_size)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _gave_up(matcher: Any) -> str:
    return f"the grammar cannot go on: {_told(matcher.get_error())}"


def _told(error: object) -> str:
    """Return the first line of a message, cut: it may hold all of a grammar.

    What is wrong in an expression stands in a later line, below a picture of the place.
    """
    first, *rest = str(error).strip().splitlines()
    reasons = [line for line in rest if line.startswith("error: ")]
    return " ".join([first, *reasons[:1]])[:200]
