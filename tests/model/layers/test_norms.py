"""Normalisations against NumPy, and what they start as."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers.norms import LayerNorm, RmsNorm, Sandwich
from jaxgpt.runtime.target import CompileTarget, compiling_for
from tests.model.tiny_model import PLAIN

X = np.random.default_rng(0).standard_normal((3, 8)) * 5 + 1
SCALE = np.linspace(0.5, 2, 8)
BIAS = np.linspace(-1, 1, 8)


def apply(norm, params, settings=PLAIN.settings):
    layer = norm.build(8, "norm", settings, "norm")
    return layer.apply({"params": params}, jnp.asarray(X, jnp.float32))


def test_rms_norm():
    root = np.sqrt((X**2).mean(-1, keepdims=True) + 1e-2)
    expected = X / root
    plain = RmsNorm(eps=1e-2)
    np.testing.assert_allclose(apply(plain, {"scale": SCALE}), expected * SCALE, rtol=1e-5)
    offset = RmsNorm(eps=1e-2, offset=1.0)
    np.testing.assert_allclose(apply(offset, {"scale": SCALE}), expected * (1 + SCALE), rtol=1e-5)
    bare = RmsNorm(eps=1e-2, learned_scale=False)
    np.testing.assert_allclose(apply(bare, {}), expected, rtol=1e-5)


def test_layer_norm():
    centred = X - X.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-2) * SCALE
    full = apply(LayerNorm(eps=1e-2), {"scale": SCALE, "bias": BIAS})
    np.testing.assert_allclose(full, expected + BIAS, rtol=1e-4, atol=1e-6)
    without = apply(LayerNorm(eps=1e-2, use_bias=False), {"scale": SCALE})
    np.testing.assert_allclose(without, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", [RmsNorm(), RmsNorm(offset=1.0), LayerNorm(), Sandwich()])
def test_every_norm_starts_as_the_identity_of_normalised_input(norm):
    layer = norm.build(8, "norm", PLAIN.settings, "norm")
    signs = jnp.asarray([[1.0, -1.0] * 4])
    variables = layer.init(jax.random.key(0), signs)
    np.testing.assert_allclose(layer.apply(variables, signs), signs, atol=1e-4)


def test_statistics_are_float32_whatever_the_compute_dtype():
    """Squares of 8 values of 2^100 overflow neither way; in bfloat16 the mean would be off."""
    settings = type(PLAIN.settings)(**{**vars(PLAIN.settings), "compute_dtype": "bfloat16"})
    y = apply(RmsNorm(learned_scale=False), {}, settings)
    assert y.dtype == jnp.bfloat16
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8)


def test_only_a_sandwich_normalises_outputs():
    assert RmsNorm().build_output(8, PLAIN.settings, "norm") is None
    assert Sandwich().build_output(8, PLAIN.settings, "norm") is not None


@pytest.mark.parametrize("norm", [RmsNorm, LayerNorm])
def test_eps_must_be_positive(norm):
    with pytest.raises(ConfigError, match=r"eps must be positive, not 0\.0"):
        norm(eps=0.0)


@pytest.mark.parametrize("norm", [RmsNorm(), RmsNorm(offset=1.0), LayerNorm()], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_the_gradient_for_a_gpu_is_that_for_a_cpu(norm, dtype):
    # Far from zero, and one number far from the others.
    x = (50 + 3 * jax.random.normal(jax.random.key(0), (4, 6, 96))).at[..., 0].set(300.0)
    x, weights = x.astype(dtype), jax.random.normal(jax.random.key(1), x.shape)
    layer = norm.build(96, "norm", PLAIN.settings, "norm")
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape),
        nn.unbox(layer.init(jax.random.key(3), x)),
    )

    def gradients():
        return jax.grad(lambda p, x: jnp.sum(layer.apply(p, x) * weights), argnums=(0, 1))(
            params, x
        )

    # The gradient of bfloat16 numbers is rounded.
    tolerance = 1e-4 if dtype == jnp.float32 else 2**-7
    expected = gradients()
    with compiling_for(CompileTarget(platform="gpu")):
        found = gradients()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        size = float(jnp.max(jnp.abs(other)))
        np.testing.assert_allclose(one / size, other / size, atol=tolerance)
