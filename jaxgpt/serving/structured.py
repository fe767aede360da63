"""The fields that ask for an answer of a given form, and the constraints that they become."""

import asyncio
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxgpt.inference.engine import TokenConstraint
from jaxgpt.inference.engine.forms.begun_calls import BegunCalls
from jaxgpt.inference.engine.forms.call_grammar import begun_call_grammar, call_grammar
from jaxgpt.inference.engine.forms.call_sizes import of_allowed_size
from jaxgpt.inference.engine.forms.grammar import GrammarConstraint, Grammars
from jaxgpt.inference.engine.forms.json_schema import GrammarError, schema_text
from jaxgpt.inference.engine.forms.tag_spelling import TagSpelling
from jaxgpt.serving.errors import ApiError
from jaxgpt.serving.schemas import (
    MOST_GRAMMAR,
    FormFields,
    ResponseFormat,
    StructuredOutputs,
)
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.tool_calls import CALL, json_text

# Grammars that are compiled at a time; requests without one never wait for them.
_NUM_THREADS = 2
_MOST_KEPT = 16
Constraints = list[TokenConstraint | None]


class AnswerForms:
    """Makes constraints for one model; the vocabulary is prepared when the first is asked for.

    Args:
        tokenizer: the model's.
        stop_id: the id that ends an answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop_id: int) -> None:
        self._tokenizer = tokenizer
        self._stop_id = stop_id
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammars")
        # Clients send the same tools with each turn of a conversation.
        self._calls = functools.lru_cache(_MOST_KEPT)(self._make_calls)

    def begin(self, make: Callable[[], Constraints]) -> asyncio.Future[Constraints]:
        """Begin to make constraints in a thread, since a large grammar takes seconds."""
        return asyncio.get_running_loop().run_in_executor(self._pool, make)

    @functools.cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self._tokenizer, self._stop_id)

    def constraints(self, body: FormFields, number: int) -> Constraints:
        """Return a constraint for each of `number` answers; None where any text will do.

        Raises:
            ApiError: the schema or grammar cannot be followed.
            ConfigError: llguidance is not installed.
        """
        form, outputs = body.response_format, body.structured_outputs
        if outputs is not None and form is not None and form.type != "text":
            raise ApiError(
                400,
                "response_format and structured_outputs each ask for a form; give one of them",
                param="structured_outputs",
            )
        try:
            grammar = self._grammar(form, outputs)
            return [None] * number if grammar is None else self._made(grammar, number)
        except GrammarError as error:
            name = "structured_outputs" if outputs is not None else "response_format"
            raise ApiError(400, str(error), param=name) from None

    def is_formed(self, body: FormFields) -> bool:
        """Return whether a body asks for an answer of a given form."""
        form = body.response_format
        return body.structured_outputs is not None or (form is not None and form.type != "text")

    def calls(
        self,
        functions: Sequence[Mapping[str, Any]],
        must_come: bool,
        is_single: bool,
        number: int,
    ) -> Constraints:
        """Return a constraint for each of `number` answers that have calls of functions.

        Args:
            functions: which may be called.
            must_come: whether the answers are calls; otherwise calls that the model begins.
            is_single: whether an answer has one call.
            number: number of answers.

        Raises:
            ApiError: the schema of a function cannot be followed.
            ConfigError: llguidance is not installed.
        """
        try:
            first = self._calls(json_text(list(functions)), must_come, is_single)
        except GrammarError as error:
            raise ApiError(400, str(error), param="tools") from None
        copies = [first.copy() for _ in range(number)]
        if must_come:
            return [*copies]
        return [BegunCalls(self._tag, copy, is_single) for copy in copies]

    def _make_calls(self, functions: str, must_come: bool, is_single: bool) -> GrammarConstraint:
        given = of_allowed_size(json.loads(functions), MOST_GRAMMAR, must_come)
        grammars = self._grammars
        if must_come:
            return grammars.constraint(call_grammar(grammars, given, is_single))
        return grammars.constraint(begun_call_grammar(grammars, given))

    @functools.cached_property
    def _tag(self) -> TagSpelling:
        return TagSpelling(self._tokenizer, CALL)

    def _made(self, grammar: str, number: int) -> Constraints:
        return [*self._grammars.constraints(grammar, number)]

    def _grammar(
        self, form: ResponseFormat | None, outputs: StructuredOutputs | None
    ) -> str | None:
        if outputs is not None:
            given = {name: value for name, value in outputs if value is not None}
            if len(given) != 1:
                raise GrammarError("give exactly one of json, regex, choice and grammar")
            (name, value), grammars = given.popitem(), self._grammars
            makers = {
                "json_": self._json_schema,
                "regex": grammars.regex,
                "choice": grammars.choice,
                "grammar": grammars.lark,
            }
            return makers[name](value)
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return self._grammars.json_schema({"type": "object"})
        if form.json_schema is None:
            raise GrammarError("response_format of the type json_schema needs json_schema.schema")
        return self._json_schema(form.json_schema.schema_)

    def _json_schema(self, schema: dict[str, Any] | str) -> str:
        if len(schema if isinstance(schema, str) else schema_text(schema)) > MOST_GRAMMAR:
            raise GrammarError(f"the schema has more than {MOST_GRAMMAR:,} characters")
        return self._grammars.json_schema(schema)
