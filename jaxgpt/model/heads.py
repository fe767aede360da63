"""Heads: from the last hidden state to what is predicted.

Axes: B batch, T time, D model, V padded vocabulary, C classes.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import Training, configclass
from jaxgpt.model.layers.dtypes import accumulator_dtype
from jaxgpt.model.layers.matmul import CustomKernel, Kernel, project
from jaxgpt.model.layers.placement import constrain, round_and_gather
from jaxgpt.model.layers.projection import Initialization, LayerSettings, add_param
from jaxgpt.model.layers.token_changes import (
    ChangedKernel,
    add_changes,
    change_kernel,
    round_merged,
)

# Logit of the columns that only round the vocabulary up; their probability is exactly 0.
PADDING_LOGIT = -1e30
# Standard deviation of the first logits: it puts the first loss above that of a uniform guess by
# half its square, 0.026 nats.
_FIRST_LOGIT_STD = 0.23


def head_std(d_model: int) -> float:
    """Return the standard deviation of a head's initial weights, for inputs of mean square 1."""
    return _FIRST_LOGIT_STD / math.sqrt(d_model)


@configclass
class Head:
    """Base of the heads."""

    is_new: ClassVar[bool] = False
    """Training of the whole head next to an adapter: it is not that of a language model."""

    def build(self, vocab_size: int, padded_vocab_size: int, settings: LayerSettings) -> nn.Module:
        """Return a module (x_BTD, table_VD, valid_BT) -> output.

        Its `weights(table_VD)` returns the array that it multiplies hidden states with.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def table_std(self, d_model: int, initialization: Initialization) -> float:
        """Return the standard deviation of the embedding table's initial values."""
        return initialization.std

    def num_tied_parameters(self, d_model: int, padded_vocab_size: int) -> int:
        """Number of parameters of other parts that the head multiplies every token with."""
        return 0


@configclass
class LanguageModelHead(Head):
    """Logits of the next token at every position."""

    tied: bool = True
    """Use of the embedding table as the head's kernel (Press and Wolf 2017)."""
    soft_cap: float | None = None
    """Bound of the logits, by soft_cap * tanh(logit / soft_cap) (Gemma 2); None for no bound."""
    zero_init: Training[bool] = False
    """Start of an untied kernel at zero, so that the first loss is exactly ln(vocab_size)."""

    def __post_init__(self) -> None:
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"soft_cap must be positive or None, not {self.soft_cap}")
        if self.tied and self.zero_init:
            raise ValueError("zero_init needs tied = False: a tied kernel is the embedding table")

    def build(self, vocab_size: int, padded_vocab_size: int, settings: LayerSettings) -> nn.Module:
        return LanguageModelHeadLayer(
            config=self,
            vocab_size=vocab_size,
            padded_vocab_size=padded_vocab_size,
            settings=settings,
        )

    def table_std(self, d_model: int, initialization: Initialization) -> float:
        """Return the std of the table; one that is also the head starts no larger than a head."""
        if not self.tied:
            return initialization.std
        largest = head_std(d_model)
        if initialization.zero_output:
            # The last hidden state is then the token's own row, whose logit would be D * std.
            largest = min(largest, 1 / d_model)
        return min(initialization.std, largest)

    def num_tied_parameters(self, d_model: int, padded_vocab_size: int) -> int:
        return d_model * padded_vocab_size if self.tied else 0

    @property
    def axes(self) -> tuple[str, str]:
        """Names of the axes of the table [V, D] if tied, else of the kernel [D, V]."""
        return ("vocab", "embed") if self.tied else ("embed", "vocab")

    @jax.named_scope("logits")
    def multiply(self, x: jax.Array, weights: Kernel, is_rounded: bool = False) -> jax.Array:
        """Return logits [..., V] without the bound, padding columns among them.

        They are float32. If `is_rounded`, each is one that the dtype of `x` has, and the array is
        of that type where it is faster.
        """
        logits = project(x, weights, 1, self.tied, self.axes, is_rounded)
        if not is_rounded or logits.dtype == x.dtype:
            return logits
        # XLA drops a conversion to a type and back.
        kind = jnp.finfo(x.dtype)
        return jax.lax.reduce_precision(logits, kind.nexp, kind.nmant)

    def logits(
        self, x: jax.Array, weights: Kernel, vocab_size: int, is_rounded: bool = False
    ) -> jax.Array:
        """Return float32 logits [..., V] of hidden states [..., D].

        Args:
            x: hidden states after the final norm.
            weights: the table [V, D] if tied, else the kernel [D, V].
            vocab_size: columns from here on only pad the vocabulary, and get -1e30.
            is_rounded: whether products are rounded to the dtype of `x`.
        """
        logits = self.multiply(x, weights, is_rounded)
        logits = logits.astype(accumulator_dtype(logits.dtype))
        if self.soft_cap is not None:
            logits = self.soft_cap * jnp.tanh(logits / self.soft_cap)
        return self.pad(logits, vocab_size)

    @staticmethod
    def pad(logits: jax.Array, vocab_size: int) -> jax.Array:
        """Put -1e30 into the columns from `vocab_size` on."""
        if vocab_size == logits.shape[-1]:
            return logits
        return jnp.where(jnp.arange(logits.shape[-1]) < vocab_size, logits, PADDING_LOGIT)


@configclass
class ClassificationHead(Head):
    """Logits of classes from the last valid token of each row."""

    is_new: ClassVar[bool] = True
    num_classes: int
    """Number of classes."""

    def __post_init__(self) -> None:
        _check_number(self.num_classes)

    def build(self, vocab_size: int, padded_vocab_size: int, settings: LayerSettings) -> nn.Module:
        return ClassificationHeadLayer(config=self, settings=settings)


@configclass
class TokenClassificationHead(Head):
    """Logits of classes at every position."""

    is_new: ClassVar[bool] = True
    num_classes: int
    """Number of classes."""

    def __post_init__(self) -> None:
        _check_number(self.num_classes)

    def build(self, vocab_size: int, padded_vocab_size: int, settings: LayerSettings) -> nn.Module:
        return TokenClassificationHeadLayer(config=self, settings=settings)


def _check_number(num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")


class LanguageModelHeadLayer(nn.Module):
    """Logits of every position; parameter `kernel` [D, V], unless the table is the kernel."""

    config: LanguageModelHead
    vocab_size: int
    padded_vocab_size: int
    settings: LayerSettings

    def setup(self) -> None:
        if not self.config.tied:
            d_model = self.settings.d_model
            shape, axes = (d_model, self.padded_vocab_size), self.config.axes
            init = nn.initializers.normal(head_std(d_model))
            if self.config.zero_init:
                init = nn.initializers.zeros
            self.kernel = add_param(self, "kernel", init, shape, axes, self.settings)
            adapter, dtype = self.settings.adapter, self.settings.param_dtype
            if ids := adapter.changed_ids:
                about = adapter.leading_shape, len(ids), d_model, dtype
                self.token_changes = add_changes(self, *about)

    def weights(self, table_VD: Kernel) -> Kernel:
        """Return the table [V, D] if tied, else the kernel [D, V], in the parameter dtype.

        Where devices share it, they have collected it, rounded to the compute dtype.
        """
        kept, ids = table_VD if self.config.tied else self.kernel, self.settings.adapter.changed_ids
        if not self.config.tied and ids:
            kept = change_kernel(self.kernel, self.token_changes, ids, id_axis=1)
        if isinstance(kept, CustomKernel) and not isinstance(kept, ChangedKernel):
            return kept  # A decoder's, which multiplies by itself.
        dtype, axes = self.settings.compute_dtype, self.config.axes
        return round_merged(kept, lambda array: round_and_gather(array, dtype, *axes))

    def __call__(self, x_BTD: jax.Array, table_VD: Kernel, valid_BT: jax.Array) -> jax.Array:
        """Return float32 logits [B, T, V]; -1e30 in the columns that pad the vocabulary."""
        logits_BTV = self.config.logits(x_BTD, self.weights(table_VD), self.vocab_size)
        return constrain(logits_BTV, "batch", "time", "vocab")


class ClassificationHeadLayer(nn.Module):
    """Logits of classes of every row; parameter `kernel` [D, C]."""

    config: ClassificationHead | TokenClassificationHead
    settings: LayerSettings

    def setup(self) -> None:
        d_model = self.settings.d_model
        shape, axes = (d_model, self.config.num_classes), ("embed", "classes")
        init = nn.initializers.normal(head_std(d_model))
        self.kernel = add_param(self, "kernel", init, shape, axes, self.settings)

    def weights(self, table_VD: jax.Array) -> jax.Array:
        """Return the kernel [D, C] in the parameter dtype."""
        return self.kernel

    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array, valid_BT: jax.Array) -> jax.Array:
        """Return float32 logits [B, C] from each row's last valid token."""
        places_BT = jnp.where(valid_BT, jnp.arange(valid_BT.shape[1]), 0)
        last_B = jnp.max(places_BT, axis=1)
        pooled_BD = x_BTD[jnp.arange(x_BTD.shape[0]), last_B]
        return project(pooled_BD, self.kernel)


class TokenClassificationHeadLayer(ClassificationHeadLayer):
    """Logits of classes of every token; parameter `kernel` [D, C]."""

    def __call__(self, x_BTD: jax.Array, table_VD: jax.Array, valid_BT: jax.Array) -> jax.Array:
        """Return float32 logits [B, T, C]."""
        return project(x_BTD, self.kernel)
