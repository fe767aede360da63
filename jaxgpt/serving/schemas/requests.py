"""Bodies that clients may send: the fields of OpenAI's API that mean something here, and ours.

Numbers are strict: no text, no NaN. Fields that are not listed are ignored, as clients send many.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jaxgpt.inference.repeats import LONGEST_MATCH

Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
# Of new tokens; where 0 means nothing, it is not taken for "no limit".
AtLeastOne = Annotated[int, Field(strict=True, ge=1, lt=1 << 31)]
_Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Strength = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
_Breaker = Annotated[str, Field(min_length=1, max_length=40)]
_Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**64)]
_Id = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Bias = dict[str, Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]]
# Characters of a grammar or expression; larger ones take a processor seconds.
MOST_GRAMMAR = 20_000
_Stop = Annotated[list[str], Field(max_length=16)]


class Body(BaseModel):
    """A body, or an object in one; unknown fields are left out."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: Switch = False


class SamplingFields(Body):
    """Fields of all kinds of requests: how tokens are drawn."""

    model: str | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(strict=True, ge=1e-6, le=1, allow_inf_nan=False)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: _Bias | None = None
    seed: _Seed | None = None
    stop: str | _Stop | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=128)] | None = None
    stream: Switch | None = None
    stream_options: StreamOptions | None = None
    # Beyond OpenAI's, as vLLM and llama.cpp name them.
    top_k: Annotated[int, Field(strict=True, ge=-1, lt=1 << 31)] | None = None
    min_p: _Share | None = None
    repetition_penalty: (
        Annotated[float, Field(strict=True, ge=0.01, le=10, allow_inf_nan=False)] | None
    ) = None
    min_tokens: Count | None = None
    dry_multiplier: _Strength | None = None
    dry_base: Annotated[float, Field(strict=True, ge=1, le=100, allow_inf_nan=False)] | None = None
    dry_allowed_length: Annotated[int, Field(strict=True, ge=0, le=LONGEST_MATCH)] | None = None
    dry_penalty_last_n: Annotated[int, Field(strict=True, ge=-1, lt=1 << 31)] | None = None
    dry_sequence_breakers: Annotated[list[_Breaker], Field(max_length=16)] | None = None
    xtc_probability: _Share | None = None
    xtc_threshold: _Share | None = None
    ignore_eos: Switch | None = None


class JsonSchemaFormat(Body):
    """A schema with its name."""

    name: str = "schema"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(Body):
    """The form that an answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Body):
    """The form that an answer must have, in vLLM's words; exactly one field."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: Annotated[str, Field(max_length=MOST_GRAMMAR)] | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None
    grammar: Annotated[str, Field(max_length=MOST_GRAMMAR)] | None = None


class FormFields(SamplingFields):
    """Fields that ask for an answer of a given form."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None


class CompletionRequest(FormFields):
    """Body of `/v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Annotated[list[_Id], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[_Id], Field(min_length=1)]], Field(min_length=1, max_length=256)
        ]
    )
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=20)] | None = None
    echo: Switch | None = None


class DetokenizeRequest(Body):
    """Body of `/detokenize`."""

    model: str | None = None
    tokens: list[_Id]
