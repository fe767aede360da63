"""`Block`: one layer of the transformer.

    x += attention(norm(x));  x += feed_forward(norm(x))

Axes: B batch, T time, D model.
"""

import flax.linen as nn
import jax

from jaxgpt.model.attention.attention import Attention, AttentionContext
from jaxgpt.model.attention.kv_cache import KVCache
from jaxgpt.model.layers.feed_forward import FeedForward
from jaxgpt.model.layers.norms import Norm
from jaxgpt.model.layers.placement import constrain
from jaxgpt.model.layers.projection import LayerSettings


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
        x_BTD: jax.Array,
        context: AttentionContext,
        cache: KVCache | None,
        layer: int | jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, KVCache | None]:
        """Return x_BTD after the layer, and the cache with the layer's keys and values."""
        attention = self.attention.build(self.settings, self.pattern_index, "attention")
        feed_forward = self.feed_forward.build(self.settings, "feed_forward")
        drop = nn.Dropout(self.settings.dropout.residual, deterministic=deterministic)

        y_BTD = self._normalise(x_BTD, "attention_norm")
        y_BTD, cache = attention(y_BTD, context, cache, layer, deterministic)
        x_BTD = x_BTD + drop(self._normalise_output(y_BTD, "attention_output_norm"))

        y_BTD = self._normalise(x_BTD, "feed_forward_norm")
        y_BTD = feed_forward(y_BTD, context.valid_BT, deterministic)
        x_BTD = x_BTD + drop(self._normalise_output(y_BTD, "feed_forward_output_norm"))
        return constrain(x_BTD, "batch", "time", "residual"), cache

    def _normalise(self, x_BTD: jax.Array, name: str) -> jax.Array:
        return self.norm.build(self.settings.d_model, "norm", self.settings, name)(x_BTD)

    def _normalise_output(self, y_BTD: jax.Array, name: str) -> jax.Array:
        norm = self.norm.build_output(self.settings.d_model, self.settings, name)
        return y_BTD if norm is None else norm(y_BTD)
