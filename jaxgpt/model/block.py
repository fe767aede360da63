"""`Block`: one layer of the transformer.

    x += attention(norm(x));  x += feed_forward(norm(x))

Axes: B batch, T time, D model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxgpt.model.attention.attention import Attention, AttentionContext
from jaxgpt.model.attention.kv_cache import KVCache
from jaxgpt.model.layer_stack import ApplyLayer, ForwardContext
from jaxgpt.model.layers.feed_forward import FeedForward
from jaxgpt.model.layers.norms import Norm, NormLayer
from jaxgpt.model.layers.placement import constrain
from jaxgpt.model.layers.projection import LayerSettings
from jaxgpt.model.moe.routing_stats import ROUTING, Routing, published_routing


class LayerCarry(NamedTuple):
    """Values that one layer passes to the next.

    Attributes:
        x_BTD: the residual stream.
        cache: keys and values of all layers; None if there is no cache.
        routing: what the routers of the layers so far did; None without experts, or if unwanted.
    """

    x_BTD: jax.Array
    cache: KVCache | None = None
    routing: Routing | None = None


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised input, each added to the residual stream."""

    attention: Attention
    feed_forward: FeedForward
    norm: Norm
    settings: LayerSettings
    pattern_index: int

    @nn.compact
    def __call__(
        self,
        carry: LayerCarry,
        context: AttentionContext,
        layer: int | jax.Array,
        deterministic: bool,
    ) -> LayerCarry:
        """Return the carry with what the layer adds: to x_BTD, the cache, and the routing."""
        x_BTD, cache, routing = carry
        attention = self.attention.build(self.settings, self.pattern_index, "attention")
        feed_forward = self.feed_forward.build(self.settings, "feed_forward")
        drop = nn.Dropout(self.settings.dropout.residual, deterministic=deterministic)

        x_BTD, y_BTD = self._norm("attention_norm").with_input(x_BTD)
        y_BTD, cache = attention(y_BTD, context, cache, layer, deterministic)
        x_BTD = x_BTD + drop(self._normalise_output(y_BTD, "attention_output_norm"))

        x_BTD, y_BTD = self._norm("feed_forward_norm").with_input(x_BTD)
        y_BTD = feed_forward(y_BTD, context.valid_BT, deterministic)
        x_BTD = x_BTD + drop(self._normalise_output(y_BTD, "feed_forward_output_norm"))
        x_BTD = constrain(x_BTD, "batch", "time", "residual")
        if routing is not None:
            routing = routing.add_layer(layer, published_routing(feed_forward))
        return LayerCarry(x_BTD, cache, routing)

    def _norm(self, name: str) -> NormLayer:
        return self.norm.build(self.settings.d_model, "norm", self.settings, name)

    def _normalise_output(self, y_BTD: jax.Array, name: str) -> jax.Array:
        norm = self.norm.build_output(self.settings.d_model, self.settings, name)
        return y_BTD if norm is None else norm(y_BTD)


def apply_block(block_at: Callable[[int], Block]) -> ApplyLayer[LayerCarry]:
    """Return the function that applies the block `block_at(pattern_index)` to a layer's carry."""

    def apply(
        params: Any,
        context: ForwardContext,
        carry: LayerCarry,
        layer: int | jax.Array,
        pattern_index: int,
    ) -> LayerCarry:
        key = context.dropout_key
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, layer)}
        inputs = (carry, context.context, layer, key is None)
        # Experts report to the block in this collection; the carry hands it on.
        carry, _ = block_at(pattern_index).apply(
            {"params": params}, *inputs, rngs=rngs, mutable=[ROUTING]
        )
        return carry

    return apply
