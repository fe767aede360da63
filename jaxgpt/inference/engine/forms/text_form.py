"""Options of a command that ask for text of a given form, and the masks that they become.

A form needs no engine: a row of any decoder draws under its masks, one token at a time.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.inference.engine.forms.grammar import GrammarConstraint, Grammars, import_llguidance
from jaxgpt.inference.engine.forms.json_schema import (
    GrammarError,
    check_json_schema,
    parse_json_schema,
)
from jaxgpt.tokenizer.tokenizer import Tokenizer

# Errors that another path, or other rights, would not have.
_OF_THE_PATH = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES,
        errno.EPERM,
    }
)  # fmt: skip
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FormOptions:
    """Form of the new text."""

    json_schema: str | None = None
    """JSON file of a schema that the new text follows; needs the packages of the extra serve."""
    regex: str | None = None
    """Regular expression that all of the new text matches; needs the packages of the extra
    serve."""

    def read(self, stop: Sequence[str]) -> "TextForm | None":
        """Return the form, None where none is asked for; needs no model, so no time is lost.

        Args:
            stop: strings that end a text.

        Raises:
            UsageError: both forms are given, or stop strings, or the file cannot be read.
            BadInputError: the file is no JSON schema that can be followed.
            ConfigError: llguidance is not installed.
        """
        if self.json_schema is None and self.regex is None:
            return None
        if self.json_schema is not None and self.regex is not None:
            raise UsageError("--json-schema and --regex are two forms; give one of them")
        if stop:
            raise UsageError(
                "--stop could end a text before it has its form; leave it out, or the form "
                "(--json-schema, --regex)"
            )
        import_llguidance()
        if (expression := self.regex) is not None:
            return TextForm("--regex", lambda grammars: grammars.regex(expression))
        assert self.json_schema is not None
        name, text = f"--json-schema {self.json_schema}", _read(self.json_schema)
        try:
            schema = parse_json_schema(text)
            check_json_schema(schema)
        except GrammarError as error:
            raise BadInputError(f"{name}: {error}") from None
        return TextForm(name, lambda grammars: grammars.json_schema(schema))

    def warn_of_cut(self, finishes: Iterable[str]) -> None:
        """Log a warning if a text of a form ended before the form was whole."""
        is_formed = self.json_schema is not None or self.regex is not None
        if is_formed and "length" in finishes:
            logger.warning(
                "a text was cut off before it had its form; raise --max-new-tokens, or bound what "
                "may grow, as with maxLength and maxItems"
            )


class TextForm:
    """Form that rows of text have, before there is a vocabulary.

    Args:
        name: the option, for errors.
        make: makes the grammar.
    """

    def __init__(self, name: str, make: Callable[[Grammars], str]) -> None:
        self._name = name
        self._make = make

    def masks(self, tokenizer: Tokenizer, stop_id: int, num_rows: int) -> "FormMasks":
        """Return the masks of some rows of text.

        Args:
            tokenizer: the model's.
            stop_id: the id that ends a row.
            num_rows: number of the rows.

        Raises:
            BadInputError: the schema or expression cannot be followed.
        """
        grammars = Grammars(tokenizer, stop_id)
        try:
            grammar = self._make(grammars)
        except GrammarError as error:
            raise BadInputError(f"{self._name}: {error}") from None
        return FormMasks(grammars.constraints(grammar, num_rows), tokenizer.vocab_size, stop_id)


class FormMasks:
    """Masks of rows that each follow a grammar; a `Constraint` of a decoder.

    Args:
        constraints: of each row.
        vocab_size: ids of the tokenizer.
        stop_id: the id that ends a row, alone allowed once nothing can follow.
    """

    def __init__(
        self, constraints: Sequence[GrammarConstraint], vocab_size: int, stop_id: int
    ) -> None:
        self._constraints = constraints
        self._num_taken = [0] * len(constraints)
        self._ended = [False] * len(constraints)
        self._words_W = np.zeros(-(-vocab_size // 32), np.uint32)
        self._end_V = np.arange(vocab_size) == stop_id

    def __call__(self, row: int, ids: Sequence[int]) -> np.ndarray:
        """Return which ids a row may draw after those that it has drawn, bool [V].

        Raises:
            ConstraintError: the grammar cannot go on.
        """
        constraint = self._constraints[row]
        for token in ids[self._num_taken[row] :]:
            self._ended[row] = self._ended[row] or constraint.advance(token)
        self._num_taken[row] = len(ids)
        if self._ended[row]:
            return self._end_V
        constraint.fill(self._words_W)
        bits = np.unpackbits(self._words_W.view(np.uint8), bitorder="little")
        return bits[: len(self._end_V)].astype(bool)


def _read(path: str) -> str:
    """Return the text of a file.

    Raises:
        UsageError: it cannot be opened by that name.
        BadInputError: it is no text.
        OSError: the machine cannot read it, as where a disk fails.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        if error.errno not in _OF_THE_PATH:
            raise
        raise UsageError(
            f"--json-schema {path} cannot be read: {error.strerror}; give a file with a JSON schema"
        ) from None
    except UnicodeDecodeError:
        raise BadInputError(f"--json-schema {path}: the file is not UTF-8 text") from None
