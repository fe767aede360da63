"""Gemma 2: norms before and after each sub-layer, GEGLU, bounds of scores and logits, windows."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.interchange import decoder
from jaxgpt.interchange.architecture import Architecture, Field, field
from jaxgpt.interchange.layer_types import alternating, sliding_layers
from jaxgpt.interchange.weights import VECTOR, place
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import GeGlu
from jaxgpt.model.layers.norms import RmsNorm, Sandwich

_LAYER = "model.layers.*"


def _write_scale(scale: float) -> dict[str, Any]:
    # They give the number whose root divides the scores; whole for every published model.
    scalar = scale**-2
    return {
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
    }


def _read_scale(theirs: Mapping[str, Any]) -> float:
    return float(theirs["query_pre_attn_scalar"]) ** -0.5


GEMMA2 = Architecture(
    name="Gemma2ForCausalLM",
    model_type="gemma2",
    template=GptConfig(
        feed_forward=GeGlu(), norm=Sandwich(norm=RmsNorm(offset=1.0)), scale_embedding=True
    ),
    fields=(
        *decoder.FIELDS,
        field("head_dim", "attention.head_dim", default=256),
        field("rms_norm_eps", "norm.norm.eps", default=1e-6, as_type=float),
        field("tie_word_embeddings", "head.tied", default=True),
        field("attn_logit_softcapping", "attention.soft_cap", default=50.0, as_type=float),
        field("final_logit_softcapping", "head.soft_cap", default=30.0, as_type=float),
        Field(
            {"query_pre_attn_scalar": 256}, ("attention.query_scale",), _write_scale, _read_scale
        ),
        sliding_layers(4096, alternating),
    ),
    fixed={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
    # An older name of `hidden_activation`, which transformers does not read.
    ignored=frozenset({"hidden_act", "cache_implementation", "use_bidirectional_attention"}),
    weights=(
        *decoder.WEIGHTS,
        place(
            f"{_LAYER}.post_attention_layernorm.weight",
            "blocks/attention_output_norm/scale",
            form=VECTOR,
        ),
        place(
            f"{_LAYER}.pre_feedforward_layernorm.weight",
            "blocks/feed_forward_norm/scale",
            form=VECTOR,
        ),
        place(
            f"{_LAYER}.post_feedforward_layernorm.weight",
            "blocks/feed_forward_output_norm/scale",
            form=VECTOR,
        ),
    ),
)
