"""Architectures of llama.cpp: their keys in a GGUF file, and weights that lie otherwise there.

Fields and names of weights are those of transformers, which `interchange/` writes already. The
package `gguf` knows the names of weights in llama.cpp.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.gemma2 import GEMMA2
from jaxgpt.interchange.gpt2 import GPT2
from jaxgpt.interchange.layer_types import alternating
from jaxgpt.interchange.llama import LLAMA
from jaxgpt.interchange.qwen2 import QWEN2
from jaxgpt.interchange.qwen3 import QWEN3

Fields = Mapping[str, Any]
# By this number of layers llama.cpp knows Gemma 2's largest model, whose queries are scaled by
# another size.
_LAYERS_OF_27B = 46
Change = Callable[[np.ndarray, Fields], np.ndarray]


def _interleave(heads: str) -> Change:
    """Return the change of the rows of a projection whose rotary planes are adjacent rows there.

    Args:
        heads: field with the number of heads.
    """

    def change(weight: np.ndarray, fields: Fields) -> np.ndarray:
        halves = weight.reshape(fields[heads], 2, -1, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape)

    return change


def _add_one(weight: np.ndarray, fields: Fields) -> np.ndarray:
    return weight + 1


def _transpose(weight: np.ndarray, fields: Fields) -> np.ndarray:
    return weight.T


class LlamaCppArchitecture(NamedTuple):
    """An architecture of llama.cpp, next to the class of transformers that it computes.

    Attributes:
        name: of the architecture.
        keys: of the file, without the name before them; each with its field of config.json.
        changes: changes of weights, by the end of their names in transformers.
        scalings: types of `rope_scaling` that it computes.
        find_fault: from the fields to what llama.cpp computes otherwise; None if all is equal.
    """

    name: str
    keys: Mapping[str, str]
    changes: Mapping[str, Change] = {}
    scalings: tuple[str, ...] = ("linear",)
    find_fault: Callable[[Fields], str | None] = lambda fields: None

    def change(self, name: str, weight: np.ndarray, fields: Fields) -> np.ndarray:
        """Return a weight as llama.cpp has it; `name` is that of transformers."""
        for end, change in self.changes.items():
            if name.endswith(end):
                return change(weight, fields)
        return weight


def _gemma2_fault(fields: Fields) -> str | None:
    """Return what differs from llama.cpp's Gemma 2, which takes little from the file."""
    size, name = fields["head_dim"], "head_dim"
    if fields["num_hidden_layers"] == _LAYERS_OF_27B:
        size = fields["hidden_size"] / fields["num_attention_heads"]
        name = "(d_model / num_heads)"
    if fields["query_pre_attn_scalar"] != size:
        return f"model.attention.query_scale is not the root of 1 / {name}"
    kinds = fields["layer_types"]
    # A window that holds the whole context is none.
    has_windows = fields["sliding_window"] < fields["max_position_embeddings"]
    if has_windows and kinds != alternating(len(kinds)):
        return "model.attention.windows is not a window on every second layer, from the first on"
    return None


def _gpt2_fault(fields: Fields) -> str | None:
    return "model.feed_forward.exact is True" if fields["activation_function"] == "gelu" else None


_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
}
_ROWS = {
    "q_proj.weight": _interleave("num_attention_heads"),
    "k_proj.weight": _interleave("num_key_value_heads"),
}
_CAPS = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")

BY_CLASS = {
    LLAMA.name: LlamaCppArchitecture("llama", _KEYS, _ROWS, scalings=("linear", "llama3")),
    QWEN3.name: LlamaCppArchitecture("qwen3", _KEYS),
    QWEN2.name: LlamaCppArchitecture("qwen2", _KEYS),
    GPT2.name: LlamaCppArchitecture(
        "gpt2", _GPT2_KEYS, dict.fromkeys(_CONV1D, _transpose), find_fault=_gpt2_fault
    ),
    GEMMA2.name: LlamaCppArchitecture(
        "gemma2", _KEYS | _CAPS, {"norm.weight": _add_one}, find_fault=_gemma2_fault
    ),
}


def find_llama_cpp(architecture: Architecture, fields: Fields) -> LlamaCppArchitecture:
    """Return the architecture of llama.cpp that computes a model.

    Args:
        architecture: the class of transformers.
        fields: its config.json.

    Raises:
        ConfigError: llama.cpp has none, or computes a field in another way.
    """
    if architecture.name not in BY_CLASS:
        raise ConfigError(
            f"no GGUF file is written of {architecture.name}: llama.cpp has its layers without "
            f"their windows; classes that are: {', '.join(BY_CLASS)}"
        )
    found = BY_CLASS[architecture.name]
    scaling = fields.get("rope_scaling")
    fault = found.find_fault(fields)
    if scaling and scaling["rope_type"] not in found.scalings:
        fault = (
            f"model.position.scaling is {scaling['rope_type']}, and those that are written are "
            f"{', '.join(found.scalings)}"
        )
    if fault:
        raise ConfigError(
            f"llama.cpp does not compute this model as {found.name}: {fault}; export it with "
            "--format huggingface"
        )
    return found
