"""Bodies with messages: those of a chat, its tools, and the fields in which tools are called."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from jaxgpt.errors import BadInputError
from jaxgpt.serving.schemas.requests import AtLeastOne, Body, FormFields, Switch
from jaxgpt.tokenizer.chat_template import SYSTEM
from jaxgpt.tokenizer.tool_calls import Call, Turn, is_json_object, json_text

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class TextPart(Body):
    """A part of a message's content; only text is read."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class CalledFunction(Body):
    """A function that the assistant called, with its arguments as JSON."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call in a message of the assistant."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise ValueError("a message without tool_calls needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of the assistant have tool_calls")
        if any(
            not is_json_object(call.function.arguments or "{}") for call in self.tool_calls or ()
        ):
            raise ValueError("the arguments of a call must be the JSON of an object")
        return self

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or ())

    def turn(self) -> Turn:
        """Return the message as the template takes it."""
        calls = tuple(
            Call(call.function.name, call.function.arguments or "{}", call.id)
            for call in self.tool_calls or ()
        )
        role = SYSTEM if self.role == "developer" else self.role
        return Turn(role, self.text(), calls=calls, call_id=self.tool_call_id)


def check_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the definition of a tool, as it was sent.

    Raises:
        ValueError: it is no function with a name.
    """
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise ValueError("only tools of the type function are called here")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "a function needs a name of at most 64 letters, digits, underscores and dashes"
        )
    if not isinstance(function.get("parameters", {}), dict | None):
        raise ValueError("the parameters of a function must be a JSON schema")
    if not isinstance(function.get("strict"), bool | None):
        raise ValueError("strict of a function must be true, false or null")
    try:
        json_text(tool).encode()
    except UnicodeEncodeError:
        raise ValueError("the definition of a tool has a lone surrogate") from None
    except BadInputError as error:
        raise ValueError(str(error)) from None
    return tool


# Kept as it was sent, since the model reads all of it.
Tool = Annotated[dict[str, Any], AfterValidator(check_tool)]
ToolList = Annotated[list[Tool], Field(max_length=128)]
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]


class FunctionName(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """A function that must be called."""

    type: Literal["function"]
    function: FunctionName


def telling(allowed: str) -> WrapValidator:
    """Return what answers any wrong value of a field with the forms that are allowed."""

    def check(given: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(given)
        except ValidationError:
            raise PydanticCustomError("allowed", "{allowed}", {"allowed": allowed}) from None

    return WrapValidator(check)


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class ChatRequest(FormFields):
    """Body of `/v1/chat/completions`."""

    messages: Messages
    max_tokens: AtLeastOne | None = None
    max_completion_tokens: AtLeastOne | None = None
    logprobs: Switch | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    tools: ToolList | None = None
    tool_choice: Annotated[
        ToolChoice | None,
        telling(
            "allowed are 'none', 'auto', 'required' and "
            '{"type": "function", "function": {"name": NAME}}'
        ),
    ] = None
    parallel_tool_calls: Switch | None = None
    # What tools and tool_choice replaced.
    functions: Any = None
    function_call: Any = None

    @field_validator("functions", "function_call")
    @classmethod
    def _refuse_old(cls, given: Any) -> Any:
        # Without functions, these two ask for nothing.
        if given and given not in ("none", "auto"):
            raise PydanticCustomError("old", "use tools and tool_choice, which replaced it")
        return given


class TokenizeRequest(Body):
    """Body of `/tokenize`: a text, or messages as a chat would read them."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: ToolList | None = None
    add_special_tokens: Switch = True
