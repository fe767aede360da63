"""Qwen 3: Llama with a norm on each query and key head."""

from jaxgpt.interchange import decoder
from jaxgpt.interchange.architecture import Architecture, field
from jaxgpt.interchange.layer_types import FULL_ATTENTION
from jaxgpt.interchange.weights import VECTOR, place
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.norms import RmsNorm

_ATTENTION = "model.layers.*.self_attn"

QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_type="qwen3",
    template=GptConfig(attention=GroupedQueryAttention(qk_norm=RmsNorm())),
    fields=(
        *decoder.FIELDS,
        FULL_ATTENTION,
        field("head_dim", "attention.head_dim", default=128),
        field("rms_norm_eps", "norm.eps", "attention.qk_norm.eps", default=1e-6, as_type=float),
        decoder.UNTIED,
    ),
    fixed={"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    ignored=frozenset({"sliding_window", "max_window_layers"}),
    weights=(
        *decoder.WEIGHTS,
        decoder.FEED_FORWARD_NORM,
        place(f"{_ATTENTION}.q_norm.weight", "blocks/attention/query_norm/scale", form=VECTOR),
        place(f"{_ATTENTION}.k_norm.weight", "blocks/attention/key_norm/scale", form=VECTOR),
    ),
)
