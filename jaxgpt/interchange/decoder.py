"""Fields and weights that Llama, Mistral, Qwen and Gemma share."""

from jaxgpt.interchange.architecture import Field, field
from jaxgpt.interchange.rope import read_rope, write_rope
from jaxgpt.interchange.weights import TABLE, VECTOR, linear, place

FIELDS = (
    field("hidden_size", "d_model"),
    field("num_hidden_layers", "num_layers"),
    field("num_attention_heads", "attention.num_heads"),
    field("num_key_value_heads", "attention.num_kv_heads", default=None),
    field("intermediate_size", "feed_forward.hidden"),
    Field(
        {"rope_theta": 10_000.0, "rope_scaling": None, "rope_parameters": None},
        ("position",),
        write_rope,
        read_rope,
    ),
)
HEAD_DIM = field("head_dim", "attention.head_dim", default=None)
EPSILON = field("rms_norm_eps", "norm.eps", default=1e-6, as_type=float)
UNTIED = field("tie_word_embeddings", "head.tied", default=False)

_LAYER, _OURS = "model.layers.*", "blocks"
WEIGHTS = (
    place("model.embed_tokens.weight", "embedding/table", form=TABLE),
    place(f"{_LAYER}.input_layernorm.weight", f"{_OURS}/attention_norm/scale", form=VECTOR),
    place(f"{_LAYER}.self_attn.q_proj.weight", f"{_OURS}/attention/query/kernel", form=linear()),
    place(f"{_LAYER}.self_attn.k_proj.weight", f"{_OURS}/attention/key/kernel", form=linear()),
    place(f"{_LAYER}.self_attn.v_proj.weight", f"{_OURS}/attention/value/kernel", form=linear()),
    place(f"{_LAYER}.self_attn.o_proj.weight", f"{_OURS}/attention/output/kernel", form=linear(2)),
    place(f"{_LAYER}.mlp.gate_proj.weight", f"{_OURS}/feed_forward/gate/kernel", form=linear()),
    place(f"{_LAYER}.mlp.up_proj.weight", f"{_OURS}/feed_forward/up/kernel", form=linear()),
    place(f"{_LAYER}.mlp.down_proj.weight", f"{_OURS}/feed_forward/down/kernel", form=linear()),
    place("model.norm.weight", "final_norm/scale", form=VECTOR),
    place("lm_head.weight", "head/kernel", form=linear()),
)
FEED_FORWARD_NORM = place(
    f"{_LAYER}.post_attention_layernorm.weight", f"{_OURS}/feed_forward_norm/scale", form=VECTOR
)
