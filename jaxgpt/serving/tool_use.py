"""The tools of a chat: which a model may call, which it must, and its calls in OpenAI's form."""

import functools
import uuid
from collections.abc import Sequence
from typing import Any

from jaxgpt.serving.errors import ApiError
from jaxgpt.serving.schemas import FormFields, NamedTool, ToolChoice
from jaxgpt.serving.structured import AnswerForms, Constraints
from jaxgpt.serving.wait import Wait
from jaxgpt.tokenizer.call_reader import CallReader
from jaxgpt.tokenizer.tool_calls import Call, Tools


class ToolUse:
    """Tools of one request.

    Args:
        tools: definitions, in the form of the chat route.
        choice: whether the model calls; None: as it likes, if there are tools.
        is_single: whether at most one call is wanted.

    Attributes:
        listed: definitions that the model reads.

    Raises:
        ApiError: two tools of one name, or a choice that no tool fits.
    """

    def __init__(self, tools: Tools | None, choice: ToolChoice | None, is_single: bool) -> None:
        given = {tool["function"]["name"]: tool for tool in tools or ()}
        if len(given) < len(tools or ()):
            raise ApiError(400, "two tools have one name", param="tools")
        wanted = choice or ("auto" if given else "none")
        self._must_come = wanted not in ("auto", "none")
        if self._must_come and not given:
            raise ApiError(400, "tool_choice asks for a call; give tools", param="tool_choice")
        names = [] if wanted == "none" else list(given)
        called = [wanted.function.name] if isinstance(wanted, NamedTool) else names
        if called and called[0] not in given:
            raise ApiError(400, "tool_choice names none of the tools", param="tool_choice")
        self._functions = [given[name]["function"] for name in called]
        self.listed: Tools = () if wanted == "none" else tuple(given.values())
        self._names = names
        self._is_single = is_single or isinstance(wanted, NamedTool)

    async def constraints(
        self, wait: Wait, forms: AnswerForms, body: FormFields, number: int
    ) -> Constraints:
        """Return a constraint for each of `number` answers; None where any text will do.

        Raises:
            ApiError: a schema cannot be followed, a form is asked for next to calls, the client
                has left, or the time is over.
            ConfigError: llguidance is not installed.
        """
        if self.listed and forms.is_formed(body):
            raise ApiError(
                400,
                "an answer that may be calls of tools has no form of its own; leave out "
                "response_format and structured_outputs, or give tool_choice none",
                param="tool_choice",
            )
        if self._functions:
            how = self._functions, self._must_come, self._is_single, number
            return await wait.result(forms.begin(functools.partial(forms.calls, *how)))
        if not forms.is_formed(body):
            return [None] * number
        return await wait.result(forms.begin(functools.partial(forms.constraints, body, number)))

    def reader(self) -> "AnswerReader":
        """Return what reads one answer."""
        return AnswerReader(self._names, self._is_single)


class AnswerReader:
    """Text of one answer, as contents and calls.

    Args:
        names: functions that may be called; without any all is content.
        is_single: whether calls after the first are left out.
    """

    def __init__(self, names: Sequence[str], is_single: bool) -> None:
        self._reader = CallReader(names) if names else None
        self._is_single = is_single
        self._num_calls = 0

    def parts(self, text: str, is_end: bool) -> list[str | Call]:
        """Return the contents and calls that an answer gains by more text; calls have an id."""
        if self._reader is None:
            return [text] if text else []
        parts: list[str | Call] = []
        for each in self._reader.feed(text) + (self._reader.flush() if is_end else []):
            if isinstance(each, Call):
                if self._is_single and self._num_calls:
                    continue
                self._num_calls += 1
                each = each._replace(id=f"call_{uuid.uuid4().hex[:24]}")
            parts.append(each)
        return parts

    def deltas(self, text: str, is_end: bool) -> list[dict[str, Any]]:
        """Return what an answer gains by more text, as the deltas of a chat's stream."""
        index, deltas = self._num_calls, list[dict[str, Any]]()
        for part in self.parts(text, is_end):
            if isinstance(part, str):
                deltas.append({"content": part})
                continue
            # Its name comes first, then its arguments.
            begin = {"index": index, **_call(part._replace(arguments=""))}
            rest = {"index": index, "function": {"arguments": part.arguments}}
            deltas += [{"tool_calls": [begin]}, {"tool_calls": [rest]}]
            index += 1
        return deltas

    def finish(self, finish: str) -> str:
        """Return why the answer ended, in OpenAI's words."""
        return "tool_calls" if self._num_calls and finish == "stop" else finish

    def message(self, text: str) -> dict[str, Any]:
        """Return the message of a whole answer in a chat."""
        parts = self.parts(text, is_end=True)
        content = "".join(part for part in parts if isinstance(part, str))
        message = {"role": "assistant", "content": content, "refusal": None}
        if calls := [_call(part) for part in parts if isinstance(part, Call)]:
            message |= {"content": content or None, "tool_calls": calls}
        return message


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
