"""The body of `/v1/responses`: what is followed, what changes nothing, what is refused by name."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from jaxgpt.errors import did_you_mean
from jaxgpt.serving.errors import ApiError
from jaxgpt.serving.schemas import (
    AtLeastOne,
    Body,
    ChatMessage,
    FormFields,
    InputItem,
    JsonSchemaFormat,
    NamedFunction,
    ResponseFormat,
    SamplingFields,
    Switch,
    as_chat_tool,
    as_messages,
    telling,
)
from jaxgpt.serving.tool_use import ToolUse

# Fields that say nothing about the answer.
_IGNORED = frozenset(
    {"prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user"}
)  # fmt: skip
# Tools that OpenAI's servers run; without them a model can still answer.
_HOSTED_TOOLS = (
    "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
    "file_search", "code_interpreter", "image_generation", "mcp",
)  # fmt: skip
# Longest name of a field that an error names; what a client sent is repeated in no other way.
_LONGEST_NAME = 64
# Fields of OpenAI's whose other values ask for what is not here. The server keeps no answers.
_ONLY: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "include": ([],),
    "n": (1,),
    "store": (False,),
    "truncation": ("disabled",),
}


class TextFormat(Body):
    """The form that an answer must have, with the schema next to the type."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    # A schema is always followed strictly.
    strict: bool | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOptions(Body):
    """Options of the answer's text."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    verbosity: Literal["low", "medium", "high"] | None = None
    format: TextFormat | None = None


class ResponsesRequest(SamplingFields):
    """Body of `/v1/responses`."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=10_000)]
    instructions: str | None = None
    max_output_tokens: AtLeastOne | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedFunction | None,
        telling(
            "allowed are 'none', 'auto', 'required' and {\"type\": \"function\", \"name\": NAME}"
        ),
    ] = None
    parallel_tool_calls: Switch | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _refuse_references(cls, given: Any) -> Any:
        items = given if isinstance(given, list) else []
        if any(isinstance(item, dict) and item.get("type") == "item_reference" for item in items):
            raise PydanticCustomError(
                "item_reference",
                "an item_reference names an earlier answer, and none is kept here: send the "
                "messages themselves, as clients do with store false",
            )
        return given

    def check(self) -> None:
        """Refuse what would change the answer and is not followed.

        Raises:
            ApiError: 400, naming the field.
        """
        self._check_text()
        self._check_echo()
        given = {**(self.model_extra or {}), "n": self.n}
        for name, value in given.items():
            if value is None or name in _IGNORED or value in _ONLY.get(name, ()):
                continue
            if name in _ONLY:
                allowed = " or ".join(map(repr, _ONLY[name]))
                raise ApiError(400, f"{name} must be {allowed} here, or left out", param=name)
            raise _unsupported(name, type(self).model_fields)

    def _check_text(self) -> None:
        """Refuse a form without its schema, and a verbosity that is not OpenAI's default."""
        text = self.text or TextOptions()
        if text.verbosity not in (None, "medium"):
            raise ApiError(
                400,
                "text.verbosity must be 'medium' here, or left out; ask for short or long answers "
                "in instructions",
                param="text.verbosity",
            )
        wanted = text.format
        if wanted is not None and wanted.type == "json_schema" and wanted.schema_ is None:
            raise ApiError(
                400, "text.format of the type json_schema needs schema", param="text.format"
            )

    def _check_echo(self) -> None:
        """Refuse what cannot be written as JSON again, which a response does with these fields."""
        for name in ("metadata", "text", "tools"):
            value = self.model_dump(include={name}, by_alias=True)
            try:
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, RecursionError):
                raise ApiError(
                    400,
                    f"{name} has a lone surrogate, a number that is not finite, or too many levels",
                    param=name,
                ) from None

    def messages(self) -> list[ChatMessage]:
        """Return the conversation; instructions are the beginning of its system message."""
        if isinstance(self.input, str):
            given: list[ChatMessage] = [ChatMessage(role="user", content=self.input)]
        else:
            given = as_messages(self.input)
        system = [self.instructions] if self.instructions else []
        while given and given[0].role in ("system", "developer"):
            system.append(given.pop(0).text())
        if not system:
            return given
        return [ChatMessage(role="system", content="\n\n".join(system)), *given]

    def functions(self) -> list[dict[str, Any]]:
        """Return the tools that the client runs; those of OpenAI's servers are left out."""
        return [tool for tool in self.tools or () if tool.get("type") not in _HOSTED_TOOLS]

    def tool_use(self) -> ToolUse:
        """Return the tools of the request.

        Raises:
            ApiError: a tool that is no function, or a choice that no tool fits.
        """
        choice = self.tool_choice
        try:
            tools = [as_chat_tool(tool) for tool in self.functions()]
        except ValueError as error:
            raise ApiError(
                400, f"tools: {error} (ignored: {', '.join(_HOSTED_TOOLS)})", param="tools"
            ) from None
        wanted = choice.as_in_chat() if isinstance(choice, NamedFunction) else choice
        return ToolUse(tools, wanted, self.parallel_tool_calls is False)

    def told_choice(self) -> Any:
        """Return the choice of tools as a response repeats it."""
        choice = self.tool_choice
        return choice.model_dump() if isinstance(choice, NamedFunction) else choice or "auto"

    def form(self) -> FormFields:
        """Return the form of the answer as the other routes take it."""
        wanted = self.text.format if self.text is not None else None
        if wanted is None:
            return FormFields()
        schema = None
        if wanted.schema_ is not None:
            schema = JsonSchemaFormat.model_validate({"schema": wanted.schema_})
        return FormFields(response_format=ResponseFormat(type=wanted.type, json_schema=schema))


def _unsupported(name: str, known: Iterable[str]) -> ApiError:
    """Return the error of a field that is not supported, named if its name is one of a field."""
    if len(name) > _LONGEST_NAME or not (name.isascii() and name.isidentifier()):
        return ApiError(400, "an unknown field is not supported here; leave it out")
    hint = did_you_mean(name, known)
    return ApiError(400, f"{name} is not supported here; leave it out{hint}", param=name)
