"""transformers' `generate` for comparison; imported by the process that PyTorch runs in alone.

Axes: B rows, T tokens.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel


class TorchGenerator:
    """GPT-2 with given weights, continuing given prompts.

    Args:
        shape: of `GPT2Config`.
        settings: `dtype`, `cache` ("static" or "dynamic"), `new_tokens`.
        arrays: weights by name, and `prompts`, int [B, T].
    """

    def __init__(
        self, shape: Mapping[str, int], settings: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        arrays = dict(arrays)
        self._prompts_BT = torch.tensor(arrays.pop("prompts")).long().to(device)
        sizes: dict[str, Any] = {**shape, "bos_token_id": None, "eos_token_id": None}
        config = GPT2Config(**sizes)
        model: Any = GPT2LMHeadModel(config)
        model.load_state_dict({name: torch.tensor(each) for name, each in arrays.items()})
        self._model = model.to(device, getattr(torch, settings["dtype"])).eval()
        self._options = {
            "max_new_tokens": settings["new_tokens"],
            "do_sample": False,
            "cache_implementation": settings["cache"],
            "pad_token_id": 0,
        }

    @torch.inference_mode()
    def generate(self) -> tuple[float, list[list[int]]]:
        """Continue the prompts; how long it took by the clock, and the new tokens of each row."""
        mask_BT = torch.ones_like(self._prompts_BT)
        start = time.perf_counter()
        rows = self._model.generate(self._prompts_BT, attention_mask=mask_BT, **self._options)
        new = rows[:, self._prompts_BT.shape[1] :].tolist()
        return time.perf_counter() - start, new
