"""Bodies that clients may send: the fields of OpenAI's API that mean something here, and ours.

Numbers are strict: no text, no NaN. Fields that are not listed are ignored, as clients send many.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 31)]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
_Id = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Bias = dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]]
_Stop = Annotated[list[str], Field(max_length=16)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class StreamOptions(_Body):
    """Options of a stream."""

    include_usage: bool = False


class SamplingFields(_Body):
    """Fields of all kinds of requests: how tokens are drawn."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: _Bias | None = None
    seed: _Seed | None = None
    stop: str | _Stop | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Beyond OpenAI's, as vLLM and llama.cpp name them.
    top_k: Annotated[int, Field(strict=True, ge=-1, le=1 << 31)] | None = None
    min_p: _Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    min_tokens: _Count | None = None
    ignore_eos: bool | None = None


class CompletionRequest(SamplingFields):
    """Body of `/v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Annotated[list[_Id], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[_Id], Field(min_length=1)]], Field(min_length=1, max_length=256)
        ]
    )
    max_tokens: _Count | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    echo: bool | None = None


class TextPart(_Body):
    """A part of a message's content; only text is read."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ChatMessage(_Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class JsonSchemaFormat(_Body):
    """A schema with its name."""

    name: str = "schema"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(_Body):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(_Body):
    """The form that an answer must have, in vLLM's words; exactly one field."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None
    grammar: str | None = None


class ChatRequest(SamplingFields):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None


class TokenizeRequest(_Body):
    """Body of `/tokenize`: a text, or messages as a chat would read them."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(_Body):
    """Body of `/detokenize`."""

    tokens: list[_Id]
