"""GPT-2: learned positions, LayerNorm, GELU, biases everywhere; kernels are [inputs, outputs]."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architecture import Architecture, Field, field
from jaxgpt.interchange.weights import TABLE, VECTOR, Place, conv1d, linear, place
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.model.layers.norms import LayerNorm
from jaxgpt.model.layers.positions import Learned

_LAYER = "transformer.h.*"
_IGNORED = frozenset({
    "attn_pdrop", "embd_pdrop", "resid_pdrop", "gradient_checkpointing", "n_ctx",
    "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params",
})  # fmt: skip
# Names of our GELU in their config: exact, or by its tanh approximation.
_ACTIVATIONS = {"gelu_new": False, "gelu_pytorch_tanh": False, "gelu": True}


def _write_activation(exact: bool) -> dict[str, Any]:
    return {"activation_function": "gelu" if exact else "gelu_new"}


def _read_activation(theirs: Mapping[str, Any]) -> bool:
    name = theirs["activation_function"]
    if name not in _ACTIVATIONS:
        raise ConfigError(
            f"config.json of GPT2LMHeadModel has activation_function={name!r}; those that are "
            f"read are {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _projection(theirs: str, *ours: str, num_inputs: int = 1) -> tuple[Place, Place]:
    paths = [f"blocks/{path}" for path in ours]
    return (
        place(
            f"{_LAYER}.{theirs}.weight",
            *(f"{path}/kernel" for path in paths),
            form=conv1d(num_inputs),
        ),
        place(f"{_LAYER}.{theirs}.bias", *(f"{path}/bias" for path in paths), form=VECTOR),
    )


def _norm(theirs: str, ours: str) -> tuple[Place, Place]:
    return (
        place(f"{theirs}.weight", f"{ours}/scale", form=VECTOR),
        place(f"{theirs}.bias", f"{ours}/bias", form=VECTOR),
    )


GPT2 = Architecture(
    name="GPT2LMHeadModel",
    model_type="gpt2",
    template=GptConfig(
        position=Learned(),
        attention=GroupedQueryAttention(qkv_bias=True, output_bias=True),
        feed_forward=Gelu(use_bias=True),
        norm=LayerNorm(),
    ),
    fields=(
        field("n_embd", "d_model", default=768),
        field("n_layer", "num_layers", default=12),
        field("n_head", "attention.num_heads", default=12),
        field("n_inner", "feed_forward.hidden", default=None),
        field("n_positions", "position.max_length", default=1024),
        field("layer_norm_epsilon", "norm.eps", default=1e-5, as_type=float),
        field("tie_word_embeddings", "head.tied", default=True),
        Field(
            {"activation_function": "gelu_new"},
            ("feed_forward.exact",),
            _write_activation,
            _read_activation,
        ),
    ),
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    ignored=_IGNORED,
    weights=(
        place("transformer.wte.weight", "embedding/table", form=TABLE),
        place("transformer.wpe.weight", "position/embedding/table", form=TABLE),
        *_norm(f"{_LAYER}.ln_1", "blocks/attention_norm"),
        *_projection("attn.c_attn", "attention/query", "attention/key", "attention/value"),
        *_projection("attn.c_proj", "attention/output", num_inputs=2),
        *_norm(f"{_LAYER}.ln_2", "blocks/feed_forward_norm"),
        *_projection("mlp.c_fc", "feed_forward/up"),
        *_projection("mlp.c_proj", "feed_forward/down"),
        *_norm("transformer.ln_f", "final_norm"),
        place("lm_head.weight", "head/kernel", form=linear()),
    ),
    context_field="n_positions",
)
