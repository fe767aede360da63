"""A LoRA adapter as llama.cpp reads it next to its base: names, and tensors as they lie there.

    NAME.lora_a [R, I], NAME.lora_b [O, R]        W' = W + (alpha / R) lora_b lora_a

R is the rank of each tensor, and alpha is one number. Changes of rows of tokens are a product of
this form, too: of the unit vectors of their ids. For the embedding, lora_a is [V, R].

Axes: I inputs and O outputs of a projection, R rank, V vocabulary, D model, K changed ids.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.gguf.architectures import Fields, LlamaCppArchitecture
from jaxgpt.interchange.gguf.gguf_file import name_tensors
from jaxgpt.interchange.peft.export_peft import name_projections
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layers.adapters import Lora, LowRank
from jaxgpt.model.layers.token_changes import TOKEN_CHANGES
from jaxgpt.model.peft_format import to_peft

_PREFIX = "base_model.model."
_SUFFIXES = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}
_TABLES = {"embedding": "token_embd.weight", "head": "output.weight"}


def check_adapter(adapter: LowRank, config: GptConfig, architecture: Architecture) -> Lora:
    """Return an adapter that llama.cpp can add to its base.

    Raises:
        ConfigError: llama.cpp cannot.
    """
    if not isinstance(adapter, Lora):
        raise ConfigError(
            f"llama.cpp adds LoRA adapters alone, and this is {type(adapter).__name__}"
        )
    head = config.head
    if adapter.changed_ids and isinstance(head, LanguageModelHead) and head.tied:
        raise ConfigError(
            "llama.cpp cannot change rows of an embedding that is the head, too (adapter.token_ids)"
        )
    name_projections(architecture)
    return adapter


def alpha_of(adapter: Lora) -> float:
    """Return llama.cpp's alpha, which it divides by the rank."""
    return adapter.scale * adapter.rank


def adapter_tensors(
    adapter: Lora,
    own: Any,
    config: GptConfig,
    params: Any,
    architecture: Architecture,
    target: LlamaCppArchitecture,
    fields: Fields,
    vocab_size: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and arrays of an adapter's file, float32.

    Args:
        adapter: its settings, which `check_adapter` has passed.
        own: its parameters.
        config: of the model.
        params: its parameters.
        architecture: the class of transformers.
        target: the same in llama.cpp.
        fields: its config.json.
        vocab_size: number of ids, V.
    """
    names = name_projections(architecture)
    name_of = name_tensors(target.name, config.num_layers)
    blocks = own.get("blocks", {}), params["blocks"]
    for place, tensor in to_peft(adapter, *blocks, names, "").tensors.items():
        stem, kind = place.removeprefix(_PREFIX).rsplit(".lora_", 1)
        suffix = _SUFFIXES[f"lora_{kind}"]
        if suffix == "lora_b":
            tensor = target.change(f"{stem}.weight", tensor, fields)
        yield f"{name_of(f'{stem}.weight')}.{suffix}", tensor
    for part, name in _TABLES.items():
        if TOKEN_CHANGES in own.get(part, {}):
            changes_KD = np.asarray(own[part][TOKEN_CHANGES], np.float32)
            units_VK = np.zeros((vocab_size, len(changes_KD)), np.float32)
            units_VK[list(adapter.changed_ids), np.arange(len(changes_KD))] = 1
            changes_KD = changes_KD * np.float32(len(changes_KD) / alpha_of(adapter))
            pair = (units_VK, changes_KD.T) if part == "embedding" else (changes_KD, units_VK)
            for suffix, tensor in zip(("lora_a", "lora_b"), pair, strict=True):
                yield f"{name}.{suffix}", tensor
