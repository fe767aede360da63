"""Attention: multi-head, grouped-query and multi-query, in one layer.

The numbers are made by a kernel (`kernels.py`); this file makes its inputs and uses its
output. Axes: B batch, T query time, S key time, D model, N query heads, K key/value heads, H head.
"""

import dataclasses
import operator

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxgpt.config import Execution, configclass
from jaxgpt.model.attention.kernel import (
    AttentionInputs,
    AttentionKernel,
    ProbabilityDropout,
    Scores,
)
from jaxgpt.model.attention.kernels import Fastest
from jaxgpt.model.attention.kv_cache import KVCache, MakeCache, empty_cache
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.layers.matmul import for_products
from jaxgpt.model.layers.norms import Norm
from jaxgpt.model.layers.positions import Position, Rotation, rotate
from jaxgpt.model.layers.projection import LayerSettings, Projection


@flax.struct.dataclass
class AttentionContext:
    """Values that all layers share in one forward pass.

    Attributes:
        mask: which keys each query sees, before any window of a layer.
        rotation: angles of the positions; None if positions are not rotary.
        valid_BT: bool, which tokens are not padding.
    """

    mask: AttentionMask
    rotation: Rotation | None
    valid_BT: jax.Array


@configclass
class Attention:
    """Base of the attention variants."""

    def check(self, d_model: int, position: Position) -> None:
        """Raise ValueError if a model of this width and these positions cannot have it."""

    @property
    def pattern_length(self) -> int:
        """Number of layers after which settings repeat: layer l has place `l % pattern_length`."""
        return 1

    def resolve_head_dim(self, d_model: int) -> int:
        """Return the size of a head, for rotary angles."""
        raise NotImplementedError(f"{type(self).__name__} has no resolve_head_dim")

    def build(self, settings: LayerSettings, pattern_index: int, name: str) -> nn.Module:
        """Return a module (x_BTD, context, cache, layer, deterministic) -> (x_BTD, cache).

        `pattern_index`: the layer's place. Layers at all places must have parameters
        of the same names and shapes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def make_cache(
        self,
        settings: LayerSettings,
        batch_size: int,
        max_length: int,
        dtype: str,
        make: MakeCache = empty_cache,
    ) -> KVCache:
        """Return an empty cache for all layers, from `make`."""
        raise NotImplementedError(f"{type(self).__name__} has no make_cache")

    def count_score_flops(self, d_model: int, num_layers: int, sequence_length: int) -> int:
        """Return forward operations per token without weights: scores and mixing.

        Counts every key of the sequence that a layer's window can reach, seen or not (causality
        is not discounted).
        """
        raise NotImplementedError(f"{type(self).__name__} has no count_score_flops")


@configclass
class GroupedQueryAttention(Attention):
    """Query heads that share key/value heads in groups (Ainslie et al. 2023).

    `num_kv_heads = num_heads` is multi-head attention, `num_kv_heads = 1` multi-query.
    """

    num_heads: int = 12
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key/value heads, a divisor of num_heads; None for as many as query heads."""
    head_dim: int | None = None
    """Size of a head; None for d_model / num_heads."""
    windows: tuple[int | None, ...] = (None,)
    """Number of keys that a query sees, itself included: a pattern repeated over the layers; None
    for all."""
    qkv_bias: bool = False
    """Add a bias to queries, keys and values (GPT-2, Qwen 2)."""
    output_bias: bool = False
    """Add a bias to the output projection (GPT-2)."""
    qk_norm: Norm | None = None
    """Norm of each query and key head before rotation (Qwen 3); None for none."""
    soft_cap: float | None = None
    """Bound of the scores, by soft_cap * tanh(score / soft_cap) (Gemma 2); None for no bound."""
    query_scale: float | None = None
    """Factor of the scores; None for 1 / sqrt(head_dim)."""
    kernel: Execution[AttentionKernel] = Fastest()
    """Attention algorithm, as a rule without a cache; changes speed and memory only."""

    def __post_init__(self) -> None:
        _check_at_least_one(num_heads=self.num_heads, num_kv_heads=self.num_kv_heads)
        _check_at_least_one(head_dim=self.head_dim)
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads, not {self.num_heads} "
                f"and {self.num_kv_heads}"
            )
        if not self.windows:
            raise ValueError("windows must name at least one layer; (None,) is no window at all")
        for window in self.windows:
            _check_at_least_one(windows=window)
        for name in ("soft_cap", "query_scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or None, not {value}")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def pattern_length(self) -> int:
        return len(self.windows)

    def check(self, d_model: int, position: Position) -> None:
        if self.head_dim is None and d_model % self.num_heads:
            raise ValueError(
                f"d_model must be a multiple of attention.num_heads, not {d_model} and "
                f"{self.num_heads}; or give attention.head_dim"
            )
        position.check_head_dim(self.resolve_head_dim(d_model))

    def resolve_head_dim(self, d_model: int) -> int:
        return d_model // self.num_heads if self.head_dim is None else self.head_dim

    def build(self, settings: LayerSettings, pattern_index: int, name: str) -> nn.Module:
        return GroupedQueryAttentionLayer(
            config=self, settings=settings, window=self.windows[pattern_index], name=name
        )

    def make_cache(
        self,
        settings: LayerSettings,
        batch_size: int,
        max_length: int,
        dtype: str,
        make: MakeCache = empty_cache,
    ) -> KVCache:
        head_dim = self.resolve_head_dim(settings.d_model)
        return make(
            settings.num_layers,
            batch_size,
            self.kernel.cache_blocks(max_length),
            self.kv_heads,
            head_dim,
            dtype,
        )

    def count_score_flops(self, d_model: int, num_layers: int, sequence_length: int) -> int:
        windows = [self.windows[layer % self.pattern_length] for layer in range(num_layers)]
        reach = [
            sequence_length if window is None else min(window, sequence_length)
            for window in windows
        ]
        return 4 * self.num_heads * self.resolve_head_dim(d_model) * sum(reach)


class GroupedQueryAttentionLayer(nn.Module):
    """`softmax(cap(scale * q k^T) + mask) v`, projected back to the model's width."""

    config: GroupedQueryAttention
    settings: LayerSettings
    window: int | None

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: AttentionContext,
        cache: KVCache | None,
        layer: int | jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, KVCache | None]:
        """Return the layer's output [B, T, D] and the cache with this layer's keys and values."""
        config, settings = self.config, self.settings
        head_dim = config.resolve_head_dim(settings.d_model)
        for_q_BTD, for_k_BTD, for_v_BTD = for_products(x_BTD, 3)
        q_BTNH = self._project_in(for_q_BTD, config.num_heads, "heads", "query")
        k_BSKH = self._project_in(for_k_BTD, config.kv_heads, "kv_heads", "key")
        v_BSKH = self._project_in(for_v_BTD, config.kv_heads, "kv_heads", "value")
        if config.qk_norm is not None:
            norm = config.qk_norm.build
            q_BTNH = norm(head_dim, "head_dim", settings, "query_norm")(q_BTNH)
            k_BSKH = norm(head_dim, "head_dim", settings, "key_norm")(k_BSKH)
        if context.rotation is not None:
            q_BTNH = rotate(q_BTNH, context.rotation)
            k_BSKH = rotate(k_BSKH, context.rotation)
        mask = dataclasses.replace(context.mask, window=self.window)
        reads_cache = config.kernel.reads_cache and x_BTD.shape[1] == 1
        if cache is not None:
            assert mask.query_slots_BT is not None, "with a cache, queries stand in its slots"
            number = operator.index(layer)
            cache = cache.write(number, k_BSKH, v_BSKH, mask.query_slots_BT)
            k_BSKH, v_BSKH = cache.read(number)
            slots_BT = cache.by_row(mask.query_slots_BT)
            mask = dataclasses.replace(mask, query_slots_BT=slots_BT)
            dtype = q_BTNH.dtype
            if x_BTD.shape[1] == 1:
                # To narrow a wider cache would take longer than the products of one query.
                dtype = jnp.promote_types(dtype, k_BSKH.dtype)
            q_BTNH = q_BTNH.astype(dtype)
            if not reads_cache:
                k_BSKH, v_BSKH = k_BSKH.astype(dtype), v_BSKH.astype(dtype)
        scale = head_dim**-0.5 if config.query_scale is None else config.query_scale
        dropout = None
        if settings.dropout.attention > 0 and not deterministic:
            dropout = ProbabilityDropout(self.make_rng("dropout"), settings.dropout.attention)
        if self.is_initializing():
            # No parameter depends on the output, and `Gpt` makes all layers under `vmap`, where
            # JAX's cuDNN attention raises.
            out_BTNH = jnp.zeros_like(q_BTNH)
        else:
            kernel = config.kernel if cache is None or reads_cache else Fastest()
            scores = Scores(scale, config.soft_cap)
            queries = q_BTNH if cache is None else cache.by_row(q_BTNH)
            inputs = AttentionInputs(queries, k_BSKH, v_BSKH, mask, scores, dropout)
            out_BTNH = kernel.attend(inputs).reshape(q_BTNH.shape)
        output = Projection(
            inputs=(config.num_heads, head_dim),
            outputs=(settings.d_model,),
            axes=("heads", "head_dim", "embed"),
            settings=settings,
            kernel_init=settings.residual_output_init,
            use_bias=config.output_bias,
            name="output",
        )
        return output(out_BTNH), cache

    def _project_in(self, x_BTD: jax.Array, num_heads: int, axis: str, name: str) -> jax.Array:
        """Map x_BTD to heads [B, T, num_heads, H]."""
        projection = Projection(
            inputs=(self.settings.d_model,),
            outputs=(num_heads, self.config.resolve_head_dim(self.settings.d_model)),
            axes=("embed", axis, "head_dim"),
            settings=self.settings,
            kernel_init=self.settings.kernel_init,
            use_bias=self.config.qkv_bias,
            name=name,
        )
        return projection(x_BTD)


def _check_at_least_one(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
