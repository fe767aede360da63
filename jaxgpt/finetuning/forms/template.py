"""Prompt and answer written from any fields of a row: a new job is a config, not code."""

import string
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, text_field
from jaxgpt.finetuning.forms.instructions import exchange


@configclass
class Template(Form):
    """A prompt and a target that are written from the fields of a row.

    For translation: `Template(prompt="Translate to German: {en}", target="{de}")`. A field of an
    object is written {translation.en}, a brace {{ or }}.
    """

    noun: ClassVar[str] = "conversation"
    prompt: str
    """Text of the user's message, with fields in braces."""
    target: str
    """Text of the answer, with fields in braces."""
    system: str = ""
    """Text of a system message, with fields in braces; none if empty."""

    def __post_init__(self) -> None:
        for name in ("prompt", "target"):
            if not _fields_of(getattr(self, name)):
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} names no field; write one in braces, such "
                    f"as {{text}}"
                )
        _fields_of(self.system)

    @property
    def required(self) -> tuple[str, ...]:
        texts = (self.system, self.prompt, self.target)
        return tuple(dict.fromkeys(field for text in texts for field in _fields_of(text)))

    def read(self, values: Mapping[str, Any]) -> Example:
        fields = {name: text_field(values, name) for name in self.required}
        if not any(fields[name].strip() for name in _fields_of(self.target)):
            raise BadRowError("empty_answer", f"every field of the target {self.target!r} is empty")
        prompt, target, system = (
            "".join(text + fields.get(name or "", "") for text, name in _pieces_of(template))
            for template in (self.prompt, self.target, self.system)
        )
        return exchange(prompt, target, system)


def _fields_of(template: str) -> list[str]:
    return [name for _, name in _pieces_of(template) if name is not None]


def _pieces_of(template: str) -> list[tuple[str, str | None]]:
    """Return texts, each with the field that follows it, None at the end.

    Raises:
        ValueError: it is no template, or asks for more than the text of a field.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} is no template: {error}") from None
    for _, name, form, conversion in pieces:
        if name is not None and (not name or form or conversion or "[" in name):
            raise ValueError(f"{template!r} has {{{name}}}; allowed in braces: the name of a field")
    return [(text, name) for text, name, _, _ in pieces]
