"""nanoGPT's model and step in PyTorch, written for comparison: the arithmetic of `Shape.model`.

Imported by the process that PyTorch runs in (`torch_child.py`) and by nobody else.

Axes: B rows, T tokens, D width, N heads, H head, V vocabulary.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised input, each added."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.feed_forward_norm = nn.LayerNorm(d_model, bias=False)
        self.up = nn.Linear(d_model, 4 * d_model, bias=False)
        self.down = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        rows, length, width = x_BTD.shape
        parts = self.qkv(self.attention_norm(x_BTD)).split(width, dim=2)
        q, k, v = (part.view(rows, length, self.num_heads, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.output(mixed.transpose(1, 2).reshape(rows, length, width))
        return x_BTD + self.down(F.gelu(self.up(self.feed_forward_norm(x_BTD))))


class TorchGpt(nn.Module):
    """The model: from ids and their targets to the mean loss."""

    def __init__(self, shape: Mapping[str, int]) -> None:
        super().__init__()
        width = shape["d_model"]
        self.tokens = nn.Embedding(shape["vocab_size"], width)
        self.positions = nn.Embedding(shape["sequence_length"], width)
        self.blocks = nn.ModuleList(
            Block(width, shape["num_heads"]) for _ in range(shape["num_layers"])
        )
        self.final_norm = nn.LayerNorm(width, bias=False)

    def forward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        places_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.tokens(tokens_BT) + self.positions(places_T)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = F.linear(self.final_norm(x_BTD), self.tokens.weight)
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


class TorchTrainer:
    """A model, its optimiser and the batches that it is trained on, on the device there is.

    Args:
        shape: see `Shape`.
        settings: `mode` ("eager", "compile" or "compile-cudnn"), `dtype` (bfloat16: by autocast),
            `learning_rate`, `weight_decay`, `betas`, `eps`, `clip_norm`.
        arrays: weights by name, and `tokens` and `targets`, int [num_batches, B, T].
    """

    def __init__(
        self, shape: Mapping[str, int], settings: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> None:
        on_gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        torch.set_float32_matmul_precision("high" if on_gpu else "highest")
        arrays = dict(arrays)
        self._batches = [
            torch.from_numpy(arrays.pop(name)).long().to(self._device)
            for name in ("tokens", "targets")
        ]
        self.model = TorchGpt(shape)
        self.model.load_state_dict({name: torch.tensor(each) for name, each in arrays.items()})
        self.model.to(self._device)
        matrices = [each for each in self.model.parameters() if each.ndim >= 2]
        others = [each for each in self.model.parameters() if each.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings["weight_decay"]},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings["learning_rate"],
            betas=tuple(settings["betas"]),
            eps=settings["eps"],
            fused=True,
        )
        self._clip_norm = settings["clip_norm"]
        self._autocast: Callable[[], Any] = contextlib.nullcontext
        if settings["dtype"] == "bfloat16":
            self._autocast = lambda: torch.autocast(self._device.type, torch.bfloat16)
        self._attention: Callable[[], Any] = contextlib.nullcontext
        if settings["mode"] == "compile-cudnn":
            self._attention = lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
        self._loss: Callable[..., torch.Tensor] = self.model
        if settings["mode"] != "eager":
            self._loss = torch.compile(self.model)
        self._num_steps = 0

    def train(self, num_steps: int) -> tuple[float, list[float]]:
        """Take `num_steps` steps; return their seconds and losses."""
        losses = []
        self._synchronize()
        start = time.perf_counter()
        for _ in range(num_steps):
            losses.append(self._step().detach())
        self._synchronize()
        seconds = time.perf_counter() - start
        return seconds, [float(loss) for loss in losses]

    def _step(self) -> torch.Tensor:
        tokens, targets = (part[self._num_steps % len(part)] for part in self._batches)
        self._num_steps += 1
        with self._autocast(), self._attention():
            loss = self._loss(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
