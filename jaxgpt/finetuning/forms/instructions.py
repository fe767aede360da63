"""Rows of a prompt and its answer, in the fields that TRL, litgpt and Alpaca have for them."""

import string
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.chats import answer_of, conversation, prompt_of
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, name_fields, text_field
from jaxgpt.tokenizer.chat_template import ASSISTANT, SYSTEM, USER, Message


@configclass
class PromptCompletion(Form):
    """A prompt and a completion, each a text or a list of messages; only the completion is learned.

    Texts become a message of the user and one of the assistant.
    """

    noun: ClassVar[str] = "conversation"
    prompt: str = "prompt"
    """Field of the prompt."""
    completion: str = "completion"
    """Field of the completion."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.prompt, self.completion)

    def read(self, values: Mapping[str, Any]) -> Example:
        prompt = prompt_of(_present(values, self.prompt), repr(self.prompt))
        answer = answer_of(_present(values, self.completion), repr(self.completion))
        return conversation([*prompt, *answer])


@configclass
class Instruction(Form):
    """An instruction, an input that may be missing or empty, and an output.

    The user's message is the instruction, and after a blank line the input.
    """

    noun: ClassVar[str] = "conversation"
    instruction: str = "instruction"
    """Field of the instruction."""
    input: str = "input"
    """Field of the input."""
    output: str = "output"
    """Field of the output."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.instruction, self.output)

    @property
    def optional(self) -> tuple[str, ...]:
        return (self.input,)

    def read(self, values: Mapping[str, Any]) -> Example:
        prompt = text_field(values, self.instruction)
        if values.get(self.input) is not None and (more := text_field(values, self.input)).strip():
            prompt = f"{prompt}\n\n{more}"
        return _exchange(prompt, text_field(values, self.output))


@configclass
class Template(Form):
    """A prompt and a target that are written from the fields of a row.

    For translation: `Template(prompt="Translate to German: {en}", target="{de}")`. A brace is
    written {{ or }}.
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
        return _exchange(
            self.prompt.format_map(fields),
            self.target.format_map(fields),
            self.system.format_map(fields),
        )


def _fields_of(text: str) -> list[str]:
    """Return the fields that a template names.

    Raises:
        ValueError: it is no template, or asks for more than the text of a field.
    """
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}") from None
    found = [(name, form, how) for _, name, form, how in parsed if name is not None]
    for name, form, conversion in found:
        if not name or form or conversion or any(sign in name for sign in ".[]"):
            raise ValueError(f"{text!r} has {{{name}}}; allowed in braces: the name of a field")
    return [name for name, _, _ in found]


def _present(values: Mapping[str, Any], name: str) -> Any:
    if values.get(name) is None:
        raise BadRowError("missing_field", f"no {name!r} among its fields ({name_fields(values)})")
    return values[name]


def _exchange(prompt: str, answer: str, system: str = "") -> Example:
    if not prompt.strip():
        raise BadRowError("empty_prompt", "the prompt is empty")
    first = [Message(SYSTEM, system)] if system else []
    return conversation([*first, Message(USER, prompt), Message(ASSISTANT, answer)])
