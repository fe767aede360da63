"""Qwen 2: Llama with biases of queries, keys and values."""

from jaxgpt.interchange import decoder
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.layer_types import FULL_ATTENTION
from jaxgpt.interchange.weights import VECTOR, place
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig

_ATTENTION = "model.layers.*.self_attn"

QWEN2 = Architecture(
    name="Qwen2ForCausalLM",
    model_type="qwen2",
    template=GptConfig(attention=GroupedQueryAttention(qkv_bias=True)),
    fields=(*decoder.FIELDS, FULL_ATTENTION, decoder.HEAD_DIM, decoder.EPSILON, decoder.UNTIED),
    fixed={"hidden_act": "silu", "use_sliding_window": False, "use_mrope": False},
    ignored=frozenset({"sliding_window", "max_window_layers"}),
    weights=(
        *decoder.WEIGHTS,
        decoder.FEED_FORWARD_NORM,
        place(f"{_ATTENTION}.q_proj.bias", "blocks/attention/query/bias", form=VECTOR),
        place(f"{_ATTENTION}.k_proj.bias", "blocks/attention/key/bias", form=VECTOR),
        place(f"{_ATTENTION}.v_proj.bias", "blocks/attention/value/bias", form=VECTOR),
    ),
)
