"""A model of jaxgpt under PyTorch's names, so that both sides of a comparison start alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def torch_weights(params: Mapping[str, Any], vocab_size: int) -> dict[str, np.ndarray]:
    """Return parameters of jaxgpt (nested, NumPy) under the names of `TorchGpt`."""
    blocks = params["blocks"]
    attention, feed_forward = blocks["attention"], blocks["feed_forward"]
    weights = {
        "tokens.weight": params["embedding"]["table"][:vocab_size],
        "positions.weight": params["position"]["embedding"]["table"],
        "final_norm.weight": params["final_norm"]["scale"],
    }
    width = params["embedding"]["table"].shape[1]
    for layer in range(len(blocks["attention_norm"]["scale"])):
        qkv = [
            attention[name]["kernel"][layer].reshape(width, -1).T
            for name in ("query", "key", "value")
        ]
        of_layer = {
            "attention_norm": blocks["attention_norm"]["scale"][layer],
            "qkv": np.concatenate(qkv),
            "output": attention["output"]["kernel"][layer].reshape(-1, width).T,
            "feed_forward_norm": blocks["feed_forward_norm"]["scale"][layer],
            "up": feed_forward["up"]["kernel"][layer].T,
            "down": feed_forward["down"]["kernel"][layer].T,
        }
        weights |= {f"blocks.{layer}.{name}.weight": value for name, value in of_layer.items()}
    return weights


def gpt2_weights(params: Mapping[str, Any], vocab_size: int) -> dict[str, np.ndarray]:
    """Return parameters of a model with GPT-2's biases under transformers' names.

    Kernels there are [in, out], queries, keys and values side by side; the head is the table.
    """
    blocks = params["blocks"]
    attention, feed_forward = blocks["attention"], blocks["feed_forward"]
    table = params["embedding"]["table"][:vocab_size]
    width = table.shape[1]
    weights = {
        "transformer.wte.weight": table,
        "lm_head.weight": table,
        "transformer.wpe.weight": params["position"]["embedding"]["table"],
        "transformer.ln_f.weight": params["final_norm"]["scale"],
        "transformer.ln_f.bias": params["final_norm"]["bias"],
    }

    def heads_together(leaf: str, layer: int, *shape: int) -> np.ndarray:
        parts = [attention[name][leaf][layer] for name in ("query", "key", "value")]
        return np.concatenate([part.reshape(*shape, -1) for part in parts], axis=-1)

    for layer in range(len(blocks["attention_norm"]["scale"])):
        of_layer = {
            "ln_1.weight": blocks["attention_norm"]["scale"][layer],
            "ln_1.bias": blocks["attention_norm"]["bias"][layer],
            "attn.c_attn.weight": heads_together("kernel", layer, width),
            "attn.c_attn.bias": heads_together("bias", layer),
            "attn.c_proj.weight": attention["output"]["kernel"][layer].reshape(-1, width),
            "attn.c_proj.bias": attention["output"]["bias"][layer],
            "ln_2.weight": blocks["feed_forward_norm"]["scale"][layer],
            "ln_2.bias": blocks["feed_forward_norm"]["bias"][layer],
            "mlp.c_fc.weight": feed_forward["up"]["kernel"][layer],
            "mlp.c_fc.bias": feed_forward["up"]["bias"][layer],
            "mlp.c_proj.weight": feed_forward["down"]["kernel"][layer],
            "mlp.c_proj.bias": feed_forward["down"]["bias"][layer],
        }
        weights |= {f"transformer.h.{layer}.{name}": value for name, value in of_layer.items()}
    return weights
