"""nanoGPT's model and recipe in PyTorch, written anew for comparison: the other side of a test.

Pre-norm blocks with LayerNorm without bias, causal self-attention, exact GELU, learned positions,
tied head; AdamW with decay on matrices, warm-up and cosine, gradient clipping; batches of random
windows. Axes: B rows, T tokens, D width, N heads, H head.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised input, each added."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1 = nn.LayerNorm(d_model, bias=False)
        self.norm_2 = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.up = nn.Linear(d_model, 4 * d_model, bias=False)
        self.down = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        rows, length, width = x_BTD.shape
        parts = self.qkv(self.norm_1(x_BTD)).split(width, dim=2)
        q, k, v = (part.view(rows, length, self.num_heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.output(mixed.transpose(1, 2).reshape(rows, length, width))
        return x_BTD + self.down(F.gelu(self.up(self.norm_2(x_BTD))))


class TorchGpt(nn.Module):
    """The model."""

    def __init__(self, vocab: int, length: int, layers: int, heads: int, d_model: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, d_model)
        self.positions = nn.Embedding(length, d_model)
        self.blocks = nn.ModuleList([Block(d_model, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(d_model, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_output = name.endswith(("output.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * layers) if is_output else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD) @ self.tokens.weight.T


def train_and_measure(
    train: np.ndarray, val: np.ndarray, vocab: int, recipe: dict[str, Any], seed: int
) -> float:
    """Train by `recipe` and return the loss over all of `val`, in nats per token."""
    # Threads that wait for each other stop a shared machine; one is as fast at this size.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    length, rows, steps = recipe["length"], recipe["rows"], recipe["steps"]
    model = TorchGpt(vocab, length, recipe["layers"], recipe["heads"], recipe["d_model"])
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        starts = rng.integers(0, len(train) - length - 1, rows)
        windows = torch.from_numpy(np.stack([train[s : s + length + 1] for s in starts]))
        loss = _loss(model, windows).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return _measure(model, val, length)


def _rate(step: int, steps: int, peak: float = 1e-3, warmup_share: float = 0.05) -> float:
    warmup = round(warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / (steps - warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def _loss(model: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def _measure(model: nn.Module, val: np.ndarray, length: int) -> float:
    """Every token but the first is predicted once, in consecutive windows."""
    total = 0.0
    whole = (len(val) - 1) // length
    starts = np.arange(whole) * length
    for some in np.array_split(starts, max(1, whole // 100)):
        windows = torch.from_numpy(np.stack([val[s : s + length + 1] for s in some]))
        total += float(_loss(model, windows).double().sum())
    return total / (whole * length)
