"""Tiny models of the published families: our config, theirs, and the table between them.

Constants (epsilons, wavelengths, caps, windows) are far from every default, so that one which is
not passed on shows. Nothing here imports torch until `build_published` is called.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgpt.config import replace
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.feed_forward import GeGlu, Gelu, SwiGlu
from jaxgpt.model.layers.norms import LayerNorm, RmsNorm, Sandwich
from jaxgpt.model.layers.positions import Learned, Rotary
from jaxgpt.model.layers.rope_scaling import LinearScaling, Llama3, Yarn
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from tests.parity import mapping
from tests.parity.mapping import Shape, Table, Weights

VOCAB_SIZE = 83


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture, as we and as transformers write it.

    Attributes:
        config: ours.
        published: name of the class in transformers.
        settings: what differs from `_COMMON` in its config.
        table: where our parameters stand in it.
    """

    config: GptConfig
    published: str
    settings: dict[str, Any]
    table: Table

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of each of our parameters by path."""
        tree = flatten_dict(abstract_params(self.config, VOCAB_SIZE), sep="/")
        return {path: leaf.shape for path, leaf in tree.items()}

    def build_published(self) -> Any:
        """Return the model of transformers, every weight random, in evaluation mode."""
        import torch
        import transformers

        model_class = getattr(transformers, self.published)
        # No id ends generation: all tokens asked for are compared.
        no_ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        settings = _COMMON | no_ids | self.settings
        model = model_class(model_class.config_class(**settings, attn_implementation="eager"))
        rng = np.random.default_rng(0)
        for name, weight in model.named_parameters():
            # Norms stand around 0.5: far from the identity, be it 0 or 1.
            mean = 0.5 if "norm" in name or ".ln_" in name else 0.0
            values = rng.normal(mean, 0.3, tuple(weight.shape))
            # Steps of 1/64 are exact in float16, which golden files are written in.
            weight.data = torch.tensor(np.round(values * 64) / 64, dtype=torch.float32)
        model.tie_weights()
        return model.eval()

    def map_weights(self, published: Any) -> Weights:
        """Return our parameters by path, from the weights of a model of transformers."""
        weights = {name: value.detach().numpy() for name, value in published.named_parameters()}
        return mapping.map_weights(self.table, weights, self.shapes)

    def logits(self, weights: Weights, tokens_BT: np.ndarray) -> np.ndarray:
        """Return what our model says, without the columns that pad the vocabulary."""
        params = unflatten_dict(weights, sep="/")
        logits, _ = jax.jit(self.config.build(VOCAB_SIZE).apply)({"params": params}, tokens_BT)
        return np.asarray(logits[..., :VOCAB_SIZE])


def random_tokens(rows: int, length: int) -> np.ndarray:
    """Uniform ids, int32 [rows, length]."""
    return np.random.default_rng(1).integers(0, VOCAB_SIZE, (rows, length)).astype(np.int32)


def published_logits(model: Any, tokens_BT: np.ndarray) -> np.ndarray:
    """Return what a model of transformers says."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens_BT, dtype=torch.long)).logits.numpy()


_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-2,
}

_PLAIN = GptConfig(
    num_layers=2,
    d_model=32,
    position=Rotary(max_wavelength=500.0),
    attention=GroupedQueryAttention(num_heads=4),
    feed_forward=SwiGlu(hidden=48),
    norm=RmsNorm(eps=1e-2),
    head=LanguageModelHead(tied=False),
    vocab_multiple=16,
)
_ROPE = {"rope_type": "default", "rope_theta": 500.0}
_GROUPED = GroupedQueryAttention(num_heads=4, num_kv_heads=2)

_GPT2 = Family(
    config=replace(
        _PLAIN,
        position=Learned(max_length=64),
        attention=GroupedQueryAttention(num_heads=4, qkv_bias=True, output_bias=True),
        feed_forward=Gelu(hidden=48, use_bias=True),
        norm=LayerNorm(eps=1e-2),
        head=LanguageModelHead(),
    ),
    published="GPT2LMHeadModel",
    settings={"n_inner": 48, "layer_norm_epsilon": 1e-2},
    table=mapping.GPT2,
)

_LLAMA = Family(
    config=_PLAIN,
    published="LlamaForCausalLM",
    settings={"rope_parameters": _ROPE},
    table=mapping.LLAMA,
)

# At head size 8, one plane is kept, one blended, two interpolated, both by Llama 3 and by YaRN.
_LLAMA3 = Family(
    config=replace(
        _PLAIN,
        attention=_GROUPED,
        position=Rotary(
            max_wavelength=500.0,
            scaling=Llama3(
                factor=6.0, low_frequency_factor=1.2, high_frequency_factor=3.5, original_length=64
            ),
        ),
    ),
    published="LlamaForCausalLM",
    settings={
        "num_key_value_heads": 2,
        "max_position_embeddings": 384,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 6.0,
            "low_freq_factor": 1.2,
            "high_freq_factor": 3.5,
            "original_max_position_embeddings": 64,
        },
    },
    table=mapping.LLAMA,
)

_LLAMA_LINEAR = Family(
    config=replace(
        _PLAIN,
        position=Rotary(max_wavelength=500.0, scaling=LinearScaling(factor=3.0)),
        attention=_GROUPED,
    ),
    published="LlamaForCausalLM",
    settings={
        "num_key_value_heads": 2,
        "rope_parameters": _ROPE | {"rope_type": "linear", "factor": 3.0},
    },
    table=mapping.LLAMA,
)

_LLAMA_YARN = Family(
    config=replace(
        _PLAIN,
        attention=_GROUPED,
        position=Rotary(
            max_wavelength=500.0,
            scaling=Yarn(factor=6.0, original_length=64, fast_turns=9.0, slow_turns=1.5),
        ),
    ),
    published="LlamaForCausalLM",
    settings={
        "num_key_value_heads": 2,
        "max_position_embeddings": 384,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 500.0,
            "factor": 6.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 9.0,
            "beta_slow": 1.5,
        },
    },
    table=mapping.LLAMA,
)

_QWEN3 = Family(
    config=replace(
        _PLAIN,
        attention=GroupedQueryAttention(
            num_heads=4, num_kv_heads=2, head_dim=12, qk_norm=RmsNorm(eps=1e-2)
        ),
        head=LanguageModelHead(),
    ),
    published="Qwen3ForCausalLM",
    settings={
        "num_key_value_heads": 2,
        "head_dim": 12,
        "rope_parameters": _ROPE,
        "tie_word_embeddings": True,
    },
    table=mapping.QWEN3_TIED,
)

_MISTRAL = Family(
    config=replace(
        _PLAIN, attention=GroupedQueryAttention(num_heads=4, num_kv_heads=1, windows=(5,))
    ),
    published="MistralForCausalLM",
    settings={"num_key_value_heads": 1, "sliding_window": 5, "rope_parameters": _ROPE},
    table=mapping.LLAMA,
)

_MIXTRAL = Family(
    config=replace(
        _PLAIN,
        attention=_GROUPED,
        feed_forward=MixtureOfExperts(
            num_experts=5,
            num_active=3,
            expert=SwiGlu(hidden=48),
            dispatch=Dropless(block_size=8),
        ),
    ),
    published="MixtralForCausalLM",
    settings={
        "num_key_value_heads": 2,
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "rope_parameters": _ROPE,
    },
    table=mapping.MIXTRAL,
)

_GEMMA2 = Family(
    config=replace(
        _PLAIN,
        num_layers=3,
        attention=GroupedQueryAttention(
            num_heads=4,
            num_kv_heads=2,
            head_dim=12,
            windows=(4, None),
            soft_cap=5.0,
            query_scale=20**-0.5,
        ),
        feed_forward=GeGlu(hidden=48),
        norm=Sandwich(norm=RmsNorm(eps=1e-2, offset=1.0)),
        head=LanguageModelHead(soft_cap=7.0),
        scale_embedding=True,
    ),
    published="Gemma2ForCausalLM",
    settings={
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "sliding_window": 4,
        "attn_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 20,
        "final_logit_softcapping": 7.0,
        "rope_parameters": _ROPE,
    },
    table=mapping.GEMMA2,
)

FAMILIES = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "llama3": _LLAMA3,
    "llama_linear": _LLAMA_LINEAR,
    "llama_yarn": _LLAMA_YARN,
    "qwen3": _QWEN3,
    "mistral": _MISTRAL,
    "mixtral": _MIXTRAL,
    "gemma2": _GEMMA2,
}
