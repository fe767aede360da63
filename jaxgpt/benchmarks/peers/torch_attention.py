"""PyTorch's attention for comparison; imported by the process that PyTorch runs in alone."""

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F


class TorchAttention:
    """Causal `scaled_dot_product_attention`, forward and backward.

    Args:
        settings: `dtype`.
        arrays: `q`, `k`, `v`, each [B, T, N, H].
    """

    def __init__(self, settings: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, settings["dtype"])
        self._inputs = [
            torch.tensor(arrays[name]).to(device, dtype).transpose(1, 2).requires_grad_()
            for name in ("q", "k", "v")
        ]

    def seconds(self, num_passes: int) -> float:
        """Return the seconds that `num_passes` passes take."""
        self._synchronize()
        start = time.perf_counter()
        for _ in range(num_passes):
            q, k, v = self._inputs
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            # As on jaxgpt's side, but for the share of the queries, which is one addition.
            torch.autograd.grad(out, self._inputs, q.detach())
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
