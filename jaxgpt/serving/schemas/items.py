"""Items of the input of `/v1/responses` that are no messages, and its tools."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Tag

from jaxgpt.serving.schemas.chats import (
    CalledFunction,
    ChatMessage,
    FunctionName,
    NamedTool,
    TextPart,
    ToolCall,
    ToolChoice,
    check_tool,
)
from jaxgpt.serving.schemas.requests import Body
from jaxgpt.tokenizer.tool_calls import is_json_object


def _check_arguments(text: str) -> str:
    if text and not is_json_object(text):
        raise ValueError("the arguments of a call must be the JSON of an object")
    return text


class InputMessage(ChatMessage):
    """A message of the input; an item of an earlier answer's output is one."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]  # type: ignore[assignment]
    content: str | list[TextPart]  # type: ignore[assignment]


class FunctionCall(Body):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: Annotated[str, AfterValidator(_check_arguments)]


class FunctionCallOutput(Body):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextPart]


def _kind(item: Any) -> str | None:
    """Return the type of an item, by which its fields are checked; a message needs none."""
    if isinstance(item, dict):
        kind = item.get("type", "message")
        return kind if isinstance(kind, str) else None
    return getattr(item, "type", None)


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="item_type",
        custom_error_message="the type of an item must be message, function_call or "
        "function_call_output",
    ),
]


class NamedFunction(FunctionName):
    """A function that must be called."""

    type: Literal["function"]

    def as_in_chat(self) -> ToolChoice:
        """Return the choice as the chat route has it."""
        return NamedTool(type="function", function=FunctionName(name=self.name))


def as_messages(items: Iterable[InputItem]) -> list[ChatMessage]:
    """Return items as the messages of a chat.

    Calls join the assistant's message before them, and so does a text that follows a call: an
    answer is one message, as on the chat route.
    """
    messages: list[ChatMessage] = []
    for item in items:
        if isinstance(item, FunctionCallOutput):
            result = {"role": "tool", "content": item.output, "tool_call_id": item.call_id}
            messages.append(ChatMessage.model_validate(result))
        elif isinstance(item, FunctionCall):
            if not messages or messages[-1].role != "assistant":
                messages.append(ChatMessage(role="assistant", content=""))
            function = CalledFunction(name=item.name, arguments=item.arguments)
            call = ToolCall(id=item.call_id, function=function)
            last = messages[-1]
            messages[-1] = last.model_copy(update={"tool_calls": [*(last.tool_calls or ()), call]})
        elif item.role == "assistant" and messages and messages[-1].tool_calls:
            text = messages[-1].text() + item.text()
            messages[-1] = messages[-1].model_copy(update={"content": text})
        else:
            messages.append(item)
    return messages


def as_chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the definition of a function as the chat route has it.

    Raises:
        ValueError: it is no function with a name.
    """
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return check_tool({"type": tool.get("type"), "function": function})
