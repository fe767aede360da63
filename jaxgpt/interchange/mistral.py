"""Mistral: Llama with a window on every layer."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.interchange import decoder
from jaxgpt.interchange.architecture import Architecture, Field
from jaxgpt.model.gpt import GptConfig


def _write_windows(windows: tuple[int | None, ...]) -> dict[str, Any]:
    return {"sliding_window": windows[0]} if len(set(windows)) == 1 else {}


def _read_windows(theirs: Mapping[str, Any]) -> tuple[int | None, ...]:
    return (theirs["sliding_window"],)


MISTRAL = Architecture(
    name="MistralForCausalLM",
    model_type="mistral",
    template=GptConfig(),
    fields=(
        *decoder.FIELDS,
        decoder.HEAD_DIM,
        decoder.EPSILON,
        decoder.UNTIED,
        Field({"sliding_window": 4096}, ("attention.windows",), _write_windows, _read_windows),
    ),
    fixed={"hidden_act": "silu"},
    weights=(*decoder.WEIGHTS, decoder.FEED_FORWARD_NORM),
)
