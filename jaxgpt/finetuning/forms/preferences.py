"""Rows that say which answers are better: in pairs, or one by one."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.finetuning.forms.chats import (
    answer_of,
    as_messages,
    conversation,
    parts_of,
    prompt_of,
    with_label,
)
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form, present
from jaxgpt.finetuning.forms.tools import read_tools
from jaxgpt.tokenizer.chat_template import ASSISTANT, USER, Message
from jaxgpt.tokenizer.tool_calls import Turn

# As texts, because a CSV file has nothing else.
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


@configclass
class Preferences(Form):
    """Two answers to one prompt, of which the first is preferred.

    Without a prompt, both answers are lists of messages, and their common beginning is the prompt.
    """

    noun: ClassVar[str] = "preference pair"
    group_size: ClassVar[int] = 2
    prompt: str = "prompt"
    """Field of the prompt: a text or a list of messages."""
    chosen: str = "chosen"
    """Field of the preferred answer: a text or a list of messages."""
    rejected: str = "rejected"
    """Field of the other answer."""
    tools: str = "tools"
    """Field of the definitions of tools that the assistant may call."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)

    @property
    def optional(self) -> tuple[str, ...]:
        return (self.prompt, self.tools)

    def read(self, values: Mapping[str, Any]) -> Example:
        tools = read_tools(values, self.tools)
        prompt = self._prompt(values)
        answers = [self._answer(values, name, prompt) for name in (self.chosen, self.rejected)]
        first, second = (as_messages([*prompt, *answer], tools) for answer in answers)
        num_prompt = _num_common(first, second)
        if num_prompt == len(first) == len(second):
            raise BadRowError("equal_answers", "the chosen and the rejected answer are equal")
        if prompt:
            # Results of tools at the beginning of both answers are one message with the prompt's.
            num_prompt = min(num_prompt, len(as_messages(prompt, tools)))
        if not num_prompt:
            raise BadRowError(
                "missing_field",
                f"no {self.prompt!r}, and the answers have no common beginning; give a prompt",
            )
        shared = [each._replace(train=False) for each in first[:num_prompt]]
        sequences = tuple(parts_of([*shared, *side[num_prompt:]]) for side in (first, second))
        first_user = next(part.text for part in sequences[0] if part.role == USER)
        return Example(sequences, num_prompt, first_user)

    def _prompt(self, values: Mapping[str, Any]) -> list[Turn]:
        """Return the prompt; nothing without one, as in an empty cell of a CSV file."""
        value = values.get(self.prompt)
        is_blank = value is None or (isinstance(value, str) and not value.strip())
        return [] if is_blank else prompt_of(value, repr(self.prompt))

    def _answer(self, values: Mapping[str, Any], name: str, prompt: Sequence[Turn]) -> list[Turn]:
        """Return the turns that follow the prompt."""
        answer = answer_of(present(values, name), repr(name))
        if not prompt and answer[0].role == ASSISTANT:
            raise BadRowError(
                "missing_field",
                f"no {self.prompt!r}, and {name!r} is no list of messages that begins with one",
            )
        # Some data sets repeat the prompt at the beginning of each answer.
        is_repeated = _shown(answer[: len(prompt)]) == _shown(prompt)
        return answer[len(prompt) :] if is_repeated else answer


@configclass
class UnpairedPreferences(Form):
    """A prompt, a completion, and whether the completion is desirable.

    The label is `desirable`: bool [E].
    """

    noun: ClassVar[str] = "judged answer"
    label_name: ClassVar[str | None] = "desirable"
    prompt: str = "prompt"
    """Field of the prompt: a text or a list of messages."""
    completion: str = "completion"
    """Field of the completion: a text or a list of messages."""
    label: str = "label"
    """Field that is true for a desirable completion and false for another."""
    tools: str = "tools"
    """Field of the definitions of tools that the assistant may call."""

    @property
    def required(self) -> tuple[str, ...]:
        return (self.prompt, self.completion, self.label)

    @property
    def optional(self) -> tuple[str, ...]:
        return (self.tools,)

    def read(self, values: Mapping[str, Any]) -> Example:
        found = present(values, self.label)
        label = _TRUTHS.get(str(found).strip().lower())
        if label is None:
            raise BadRowError("unknown_label", f"{self.label!r} is {found!r}; allowed: true, false")
        tools = read_tools(values, self.tools)
        prompt = prompt_of(present(values, self.prompt), repr(self.prompt))
        answer = answer_of(present(values, self.completion), repr(self.completion))
        return with_label(conversation(as_messages([*prompt, *answer], tools)), label)

    def label_arrays(
        self, examples: Sequence[Example]
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        return {"desirable": np.array([each.label for each in examples], bool)}, ()


def _shown(turns: Sequence[Turn]) -> list[Any]:
    """Return what of turns becomes text."""
    return [(each.role, each.content, [call[:2] for call in each.calls]) for each in turns]


def _num_common(first: Sequence[Message], second: Sequence[Message]) -> int:
    """Return the messages with which both begin."""
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one[:2] != other[:2]:
            return number
    return min(len(first), len(second))
