"""`Gpt`: the decoder-only transformer, composed of the variants that its config names.

    tokens -> embedding (+ position) -> L blocks -> norm -> head -> output

Axes: B batch, T time, D model, V padded vocabulary, L layers.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from jaxgpt.config import Execution, Training, configclass
from jaxgpt.model.attention.attention import Attention, AttentionContext, GroupedQueryAttention
from jaxgpt.model.attention.kv_cache import KVCache, MakeCache, empty_cache
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.block import Block, LayerCarry, apply_block
from jaxgpt.model.heads import Head, LanguageModelHead
from jaxgpt.model.layer_stack import (
    ForwardContext,
    LayerProgram,
    LayerStack,
    Unrolled,
    UnrolledPython,
)
from jaxgpt.model.layers.adapters import NO_ADAPTER, Adapter
from jaxgpt.model.layers.embedding import Embedding
from jaxgpt.model.layers.feed_forward import FeedForward, SwiGlu
from jaxgpt.model.layers.matmul import Kernel
from jaxgpt.model.layers.norms import Norm, RmsNorm
from jaxgpt.model.layers.placement import constrain
from jaxgpt.model.layers.positions import Position, Rotary
from jaxgpt.model.layers.projection import Dropout, Initialization, LayerSettings, kept_param
from jaxgpt.model.moe.routing_stats import ROUTING, Routing, no_routing, publish_routing
from jaxgpt.model.remat import NoRemat, Remat

Dtype = Literal["float32", "bfloat16"]


@configclass
class GptConfig:
    """The architecture of a model; its vocabulary comes from the dataset."""

    num_layers: int = 12
    """Number of blocks."""
    d_model: int = 768
    """Width of the residual stream."""
    position: Position = Rotary()
    """Encoding of token positions."""
    attention: Attention = GroupedQueryAttention()
    """Attention sub-layer, which reads from earlier tokens."""
    feed_forward: FeedForward = SwiGlu()
    """Feed-forward sub-layer, which treats each token on its own."""
    norm: Norm = RmsNorm()
    """Normalisation of the input of each sub-layer and of the last hidden state."""
    head: Head = LanguageModelHead()
    """Output head, which predicts from the last hidden state."""
    scale_embedding: bool = False
    """Scaling of token embeddings by sqrt(d_model) (Vaswani et al. 2017, Gemma)."""
    dropout: Training[Dropout] = Dropout()
    """Shares of activations dropped in training."""
    initialization: Training[Initialization] = Initialization()
    """Scales of the initial weights."""
    remat: Execution[Remat] = NoRemat()
    """Arrays that the backward pass recomputes instead of keeping."""
    layers: Execution[LayerStack] = Unrolled()
    """Execution of the layers: unrolled, as a loop, or as a pipeline; the stored parameters are the
    same."""
    param_dtype: Dtype = "float32"
    """Type of the stored parameters; training needs float32, whatever compute_dtype is."""
    compute_dtype: Execution[Dtype] = "float32"
    """Type of activations and matmul operands; sums, norms, softmax and logits are float32."""
    vocab_multiple: int = 128
    """Divisor of the padded vocabulary size; ids beyond the vocabulary have no probability."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "d_model", "vocab_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        self.attention.check(self.d_model, self.position)

    @property
    def settings(self) -> LayerSettings:
        """Return the settings that every part of the model is built with."""
        return LayerSettings(
            d_model=self.d_model,
            num_layers=self.num_layers,
            param_dtype=self.param_dtype,
            compute_dtype=self.compute_dtype,
            initialization=self.initialization,
            dropout=self.dropout,
        )

    def pad_vocab(self, vocab_size: int) -> int:
        """Round a vocabulary size up to a multiple of `vocab_multiple`."""
        return -(-vocab_size // self.vocab_multiple) * self.vocab_multiple

    def build(self, vocab_size: int, adapter: Adapter = NO_ADAPTER) -> "Gpt":
        """Return the model for a vocabulary of `vocab_size` ids.

        With an adapter the model has the adapter's parameters in addition to its own.
        """
        if vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, not {vocab_size}")
        return Gpt(config=self, vocab_size=vocab_size, adapter=adapter)


def make_cache(
    config: GptConfig,
    batch_size: int,
    max_length: int,
    dtype: Dtype | None = None,
    make: MakeCache = empty_cache,
) -> KVCache:
    """Return an empty cache for `batch_size` rows of up to `max_length` tokens.

    Args:
        config: the model's config.
        batch_size: number of rows.
        max_length: number of slots of a row.
        dtype: type that keys and values are read in; None for the compute dtype.
        make: kind of the cache: `empty_cache` or `empty_int8_cache`.

    Raises:
        ConfigError: the model has too few positions for `max_length` tokens.
    """
    config.position.check_length(max_length)
    return config.attention.make_cache(
        config.settings, batch_size, max_length, dtype or config.compute_dtype, make
    )


class Gpt(nn.Module):
    """The model: `apply({"params": params}, tokens_BT, ...)`.

    Parameters: `embedding`, `position` (if learned), `blocks` (every leaf [L, ...]), `final_norm`,
    `head` (unless tied).
    """

    config: GptConfig
    vocab_size: int
    adapter: Adapter = NO_ADAPTER

    def setup(self) -> None:
        config, settings = self.config, self._settings
        padded_vocab_size = config.pad_vocab(self.vocab_size)
        self.embedding = Embedding(
            num_rows=padded_vocab_size,
            axes=("vocab", "embed"),
            std=config.head.table_std(config.d_model, config.initialization),
            settings=settings,
        )
        self.position = config.position.build(settings, "position")
        self.blocks = kept_param(self, "blocks", self._init_blocks)
        self.final_norm = config.norm.build(config.d_model, "norm", settings, "final_norm")
        self.head = config.head.build(self.vocab_size, padded_vocab_size, settings)
        self.embedding_dropout = nn.Dropout(config.dropout.embedding)

    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        cache: KVCache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, KVCache | None]:
        """Predict from tokens.

        Args:
            tokens_BT: int32 ids.
            segment_ids_BT: int32, 0 for padding; attention stays within equal ids. With a cache
                only its zeros count: a row continues what the cache holds, and its valid tokens
                come first. None if every token is valid and of one segment.
            positions_BT: int32; None for 0, 1, ... on from what the cache holds.
            cache: keys and values of the tokens before these; None to start at these.
            deterministic: no dropout; otherwise `rngs={"dropout": key}` is needed.

        With `apply(..., mutable=[ROUTING])` a model with experts also returns what its routers did;
        see `moe/routing_stats.py`.

        Returns:
            The head's output in float32: logits [B, T, V] of the next token, -1e30 in the columns
            that pad the vocabulary; or [B, C] or [B, T, C] of classes. And the cache, if one was
            given, with these tokens appended.

        Raises:
            ConfigError: more tokens than the model has learned positions.
        """
        x_BTD, cache = self.hidden_states(
            tokens_BT, segment_ids_BT, positions_BT, cache, deterministic
        )
        valid_BT = _valid(tokens_BT, segment_ids_BT)
        return self.head(x_BTD, self.embedding.as_kernel(), valid_BT), cache

    def hidden_states(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        cache: KVCache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, KVCache | None]:
        """Return x_BTD after the final norm, in the compute dtype, and the cache.

        Takes what `__call__` takes.
        """
        self.config.position.check_length(tokens_BT.shape[1])
        valid_BT = _valid(tokens_BT, segment_ids_BT)
        if positions_BT is None:
            positions_BT = _next_positions(tokens_BT.shape[1], cache)
        if cache is None:
            mask = AttentionMask(segment_ids_BT=segment_ids_BT)
        else:
            mask = AttentionMask(query_slots_BT=cache.new_slots(valid_BT))
        context = AttentionContext(mask, self._rotation(positions_BT), valid_BT)

        x_BTD = self._embed(tokens_BT, positions_BT, deterministic)
        x_BTD, cache = self._apply_blocks(x_BTD, context, cache, deterministic)
        if cache is not None:
            cache = cache.advance(valid_BT)
        return self.final_norm(x_BTD), cache

    def hidden_states_and_head(self, *inputs: Any, **options: Any) -> tuple[jax.Array, Kernel]:
        """Return x_BTD and what the head multiplies it with (`LanguageModelHead.logits`).

        Takes what `__call__` takes. A loss uses it that never needs all logits at once.
        """
        x_BTD, _ = self.hidden_states(*inputs, **options)
        return x_BTD, self.head.weights(self.embedding.as_kernel())

    def _embed(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, deterministic: bool
    ) -> jax.Array:
        """Return the first x_BTD: rows of the table, with positions that are added to them."""
        x_BTD = self.embedding(tokens_BT)
        if self.config.scale_embedding:
            x_BTD = x_BTD * jnp.asarray(self.config.d_model**0.5, x_BTD.dtype)
        if self.position is not None:
            x_BTD = self.position(x_BTD, positions_BT)
        x_BTD = self.embedding_dropout(x_BTD, deterministic=deterministic)
        return constrain(x_BTD, "batch", "time", "residual")

    def _apply_blocks(
        self,
        x_BTD: jax.Array,
        context: AttentionContext,
        cache: KVCache | None,
        deterministic: bool,
    ) -> tuple[jax.Array, KVCache | None]:
        """Apply all blocks in turn; return x_BTD after the last, and the cache."""
        if self.is_initializing():
            # Their parameters are made; tracing what nobody will look at takes seconds.
            return x_BTD, cache
        config = self.config
        program = LayerProgram(
            apply_layer=apply_block(self._block),
            params=self.blocks,
            context=ForwardContext(context, None if deterministic else self.make_rng("dropout")),
            num_layers=config.num_layers,
            pattern_length=config.attention.pattern_length,
            remat=config.remat,
        )
        # With a cache, whose layers are arrays of their own, layers are told apart in Python.
        layers = config.layers if cache is None else UnrolledPython()
        carry = layers.run(program, LayerCarry(x_BTD, cache, self._no_routing(x_BTD.shape[0])))
        if carry.routing is not None:
            publish_routing(self, carry.routing)
        return carry.x_BTD, carry.cache

    def _rotation(self, positions_BT: jax.Array) -> Any:
        """Return the rotation of queries and keys at these positions; None if none is used."""
        head_dim = self.config.attention.resolve_head_dim(self.config.d_model)
        return self.config.position.rotation(positions_BT, head_dim)

    @property
    def _settings(self) -> LayerSettings:
        return dataclasses.replace(self.config.settings, adapter=self.adapter)

    def _block(self, pattern_index: int) -> Block:
        config = self.config
        return Block(
            attention=config.attention,
            feed_forward=config.feed_forward,
            norm=config.norm,
            settings=self._settings,
            pattern_index=pattern_index,
            parent=None,
        )

    def _no_routing(self, num_rows: int) -> Routing | None:
        """Return statistics of no layer yet; None without experts, or if nobody asks for them."""
        counts = self.config.feed_forward.count_experts()
        if counts is None or not self.is_mutable_collection(ROUTING):
            return None
        return no_routing(num_rows, self.config.num_layers, counts[0])

    def _init_blocks(self, key: jax.Array) -> Any:
        """Initialise every layer from its own key; leaves [L, ...], axis 0 named "layers"."""
        block = self._block(0)
        x_BTD = jnp.zeros((1, 1, self.config.d_model), jnp.dtype(self.config.compute_dtype))
        rotation = self._rotation(jnp.zeros((1, 1), jnp.int32))
        context = AttentionContext(AttentionMask(), rotation, jnp.ones((1, 1), bool))

        def init_layer(layer_key: jax.Array) -> Any:
            return block.init(layer_key, LayerCarry(x_BTD), context, 0, True)["params"]

        stacked = jax.vmap(init_layer)(jax.random.split(key, self.config.num_layers))
        return meta.add_axis(stacked, 0, {nn.PARTITION_NAME: "layers"})


def _valid(tokens_BT: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
    """Return which tokens are not padding, bool [B, T]."""
    if segment_ids_BT is None:
        return jnp.ones(tokens_BT.shape, bool)
    return segment_ids_BT != 0


def _next_positions(num_tokens: int, cache: KVCache | None) -> jax.Array:
    """Return 0, 1, ... on from what the cache holds, int32 [1, T] or [B, T]."""
    positions_1T = jnp.arange(num_tokens, dtype=jnp.int32)[None, :]
    return positions_1T if cache is None else positions_1T + cache.lengths_B[:, None]
