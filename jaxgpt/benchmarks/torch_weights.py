"""A model of jaxgpt under PyTorch's names, so that both sides of a comparison start alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def torch_weights(params: Mapping[str, Any], vocab_size: int) -> dict[str, np.ndarray]:
    """A model's parameters of jaxgpt (nested, NumPy) by the names that `TorchGpt` has for them."""
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
