"""Rows of a prompt and its answer, in the fields that TRL, litgpt and Alpaca have for them."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.chats import answer_of, as_messages, conversation, prompt_of
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, present, text_field
from jaxgpt.finetuning.forms.tools import read_tools
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
    tools: str = "tools"
    """Field of the definitions of tools that the assistant may call."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.prompt, self.completion)

    @property
    def optional(self) -> tuple[str, ...]:
        return (self.tools,)

    def read(self, values: Mapping[str, Any]) -> Example:
        tools = read_tools(values, self.tools)
        prompt = prompt_of(present(values, self.prompt), repr(self.prompt))
        answer = answer_of(present(values, self.completion), repr(self.completion))
        return conversation(as_messages([*prompt, *answer], tools))


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
        return exchange(prompt, text_field(values, self.output))


def exchange(prompt: str, answer: str, system: str = "") -> Example:
    """Return a question and its answer as an example.

    Raises:
        BadRowError: one of them is empty.
    """
    if not prompt.strip():
        raise BadRowError("empty_prompt", "the prompt is empty")
    first = [Message(SYSTEM, system)] if system else []
    return conversation([*first, Message(USER, prompt), Message(ASSISTANT, answer)])
