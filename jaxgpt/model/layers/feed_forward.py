"""Feed-forward layers: each token on its own, through a wider hidden layer.

Axes: B batch, T time, D model, F hidden.
"""

import flax.linen as nn
import jax

from jaxgpt.config import configclass
from jaxgpt.model.layers.activations import (
    Activation,
    activate,
    gated,
    gelu_exact,
    gelu_tanh,
    relu_squared,
    silu,
)
from jaxgpt.model.layers.projection import LayerSettings, Projection


@configclass
class FeedForward:
    """Base of the feed-forward variants."""

    def build(self, settings: LayerSettings, name: str) -> nn.Module:
        """Return a module (x_BTD, valid_BT, deterministic) -> x_BTD; padding is not valid."""
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def exchanged_per_token(self, num_tokens: int, num_peers: int) -> float:
        """Return the vectors of the model's width that a device sends forward per token.

        Args:
            num_tokens: of a row.
            num_peers: devices that share the experts.
        """
        return 0.0

    def count_experts(self) -> tuple[int, int] | None:
        """Return (experts, experts that each token goes through); None without experts."""
        return None


@configclass
class PlainFeedForward(FeedForward):
    """Base of `activation(x W_up) W_down`."""

    hidden: int | None = None
    """Width of the hidden layer; None for 4 * d_model."""
    use_bias: bool = False
    """Bias in both projections (GPT-2)."""

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)

    def activation(self) -> Activation:
        """Return the function between the two projections."""
        raise NotImplementedError(f"{type(self).__name__} has no activation")

    def resolve_hidden(self, d_model: int) -> int:
        """Return the width of the hidden layer."""
        return 4 * d_model if self.hidden is None else self.hidden

    def build(self, settings: LayerSettings, name: str) -> nn.Module:
        return PlainFeedForwardLayer(
            hidden=self.resolve_hidden(settings.d_model),
            use_bias=self.use_bias,
            activation=self.activation(),
            settings=settings,
            name=name,
        )


@configclass
class GatedFeedForward(FeedForward):
    """Base of `(activation(x W_gate) * x W_up) W_down` (Shazeer 2020)."""

    hidden: int | None = None
    """Width of the hidden layer; None for 8/3 * d_model rounded up to a multiple of 64."""
    use_bias: bool = False
    """Bias in all three projections."""

    def __post_init__(self) -> None:
        _check_hidden(self.hidden)

    def activation(self) -> Activation:
        """Return the function of the gate."""
        raise NotImplementedError(f"{type(self).__name__} has no activation")

    def resolve_hidden(self, d_model: int) -> int:
        """Return the width of the hidden layer."""
        # Three matrices of 8/3 have the parameters of two of 4.
        return -(-8 * d_model // (3 * 64)) * 64 if self.hidden is None else self.hidden

    def build(self, settings: LayerSettings, name: str) -> nn.Module:
        return GatedFeedForwardLayer(
            hidden=self.resolve_hidden(settings.d_model),
            use_bias=self.use_bias,
            activation=self.activation(),
            settings=settings,
            name=name,
        )


@configclass
class Gelu(PlainFeedForward):
    """GELU between two projections (GPT-2)."""

    exact: bool = False
    """Exact normal distribution function instead of its tanh approximation."""

    def activation(self) -> Activation:
        return gelu_exact if self.exact else gelu_tanh


@configclass
class Relu2(PlainFeedForward):
    """Squared ReLU between two projections (So et al. 2021)."""

    def activation(self) -> Activation:
        return relu_squared


@configclass
class SwiGlu(GatedFeedForward):
    """SiLU as the gate (Llama, Mistral, Qwen)."""

    def activation(self) -> Activation:
        return silu


@configclass
class GeGlu(GatedFeedForward):
    """GELU as the gate, tanh approximation (Gemma)."""

    def activation(self) -> Activation:
        return gelu_tanh


class PlainFeedForwardLayer(nn.Module):
    """Two projections with an activation between them."""

    hidden: int
    use_bias: bool
    activation: Activation
    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BTD: jax.Array, valid_BT: jax.Array, deterministic: bool) -> jax.Array:
        """Map [B, T, D] to [B, T, D]."""
        h_BTF = _project_up(self.settings, self.hidden, self.use_bias, "up")(x_BTD)
        h_BTF = activate(self.activation, h_BTF)
        return _project_down(self.settings, self.hidden, self.use_bias)(h_BTF)


class GatedFeedForwardLayer(nn.Module):
    """A gate times a projection, projected back."""

    hidden: int
    use_bias: bool
    activation: Activation
    settings: LayerSettings

    @nn.compact
    def __call__(self, x_BTD: jax.Array, valid_BT: jax.Array, deterministic: bool) -> jax.Array:
        """Map [B, T, D] to [B, T, D]."""
        gate_BTF = _project_up(self.settings, self.hidden, self.use_bias, "gate")(x_BTD)
        h_BTF = _project_up(self.settings, self.hidden, self.use_bias, "up")(x_BTD)
        h_BTF = gated(self.activation, gate_BTF, h_BTF)
        return _project_down(self.settings, self.hidden, self.use_bias)(h_BTF)


def _project_up(settings: LayerSettings, hidden: int, use_bias: bool, name: str) -> Projection:
    return Projection(
        inputs=(settings.d_model,),
        outputs=(hidden,),
        axes=("embed", "mlp"),
        settings=settings,
        kernel_init=settings.kernel_init,
        use_bias=use_bias,
        name=name,
    )


def _project_down(settings: LayerSettings, hidden: int, use_bias: bool) -> Projection:
    return Projection(
        inputs=(hidden,),
        outputs=(settings.d_model,),
        axes=("mlp", "embed"),
        settings=settings,
        kernel_init=settings.residual_output_init,
        use_bias=use_bias,
        name="down",
    )


def _check_hidden(hidden: int | None) -> None:
    if hidden is not None and hidden < 1:
        raise ValueError(f"hidden must be at least 1, not {hidden}")
