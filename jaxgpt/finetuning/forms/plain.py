"""Rows of plain text, to be continued as in pretraining."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, Part, text_field


@configclass
class Text(Form):
    """A text of which every token is predicted, as in pretraining."""

    noun: ClassVar[str] = "text"
    text: str = "text"
    """Field of the text."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.text,)

    def read(self, values: Mapping[str, Any]) -> Example:
        return plain(text_field(values, self.text), is_target=True)


def plain(text: str, is_target: bool) -> Example:
    """Return a text as an example.

    Raises:
        BadRowError: it is empty.
    """
    if not text.strip():
        raise BadRowError("empty_text", "the text is empty")
    return Example(((Part(None, text, is_target),),), 0, text)
