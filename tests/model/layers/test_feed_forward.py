"""Feed-forward variants against their formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers.feed_forward import GeGlu, Gelu, Relu2, SwiGlu
from tests.model.tiny_model import PLAIN

X = np.random.default_rng(0).standard_normal((1, 3, 32))


def run(feed_forward):
    """Output, and parameters as float64, of a layer with random biases."""
    layer = feed_forward.build(PLAIN.settings, "feed_forward")
    x = jnp.asarray(X, jnp.float32)
    inputs = (x, jnp.ones((1, 3), bool), True)
    shapes = nn.meta.unbox(jax.eval_shape(layer.init, jax.random.key(0), *inputs))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), shapes)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    output = layer.apply(variables, *inputs)
    return output, params["params"]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        (Gelu(hidden=48, use_bias=True), gelu_tanh),
        (Relu2(hidden=48), lambda x: np.maximum(x, 0) ** 2),
    ],
)
def test_plain(config, activation):
    output, p = run(config)
    bias = {name: p[name].get("bias", 0.0) for name in p}
    h = activation(X @ p["up"]["kernel"] + bias["up"])
    expected = h @ p["down"]["kernel"] + bias["down"]
    assert ("bias" in p["up"]) == ("bias" in p["down"]) == config.use_bias
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "activation"),
    [(SwiGlu(hidden=48), silu), (GeGlu(hidden=48, use_bias=True), gelu_tanh)],
)
def test_gated(config, activation):
    output, p = run(config)
    bias = {name: p[name].get("bias", 0.0) for name in p}
    gate = activation(X @ p["gate"]["kernel"] + bias["gate"])
    h = gate * (X @ p["up"]["kernel"] + bias["up"])
    expected = h @ p["down"]["kernel"] + bias["down"]
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("config", "hidden"), [(Gelu(), 128), (Relu2(), 128), (SwiGlu(), 128)])
def test_default_hidden_width(config, hidden):
    """4 * 32 = 128; 8/3 * 32 = 85.3, rounded up to a multiple of 64."""
    _, params = run(config)
    assert params["up"]["kernel"].shape == (32, hidden)


@pytest.mark.parametrize("variant", [Gelu, Relu2, SwiGlu, GeGlu])
def test_hidden_must_be_positive(variant):
    with pytest.raises(ConfigError, match="hidden must be at least 1, not 0"):
        variant(hidden=0)
