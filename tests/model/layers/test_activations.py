"""Activations: values and hand-written derivatives against float64 formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.layers.activations import (
    activate,
    gated,
    gelu_exact,
    gelu_tanh,
    relu_squared,
    silu,
)
from jaxgpt.runtime.target import CompileTarget, compiling_for

X = np.linspace(-9, 9, 721)


def _gelu_exact(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


REFERENCES = {
    gelu_exact: _gelu_exact,
    gelu_tanh: _gelu_tanh,
    silu: lambda x: x / (1 + math.exp(-x)),
    relu_squared: lambda x: max(x, 0.0) ** 2,
}


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("activation", REFERENCES, ids=lambda a: getattr(a, "__name__", ""))
def test_value_and_derivative_against_float64(activation, dtype, bound):
    reference = REFERENCES[activation]
    x = jnp.asarray(X, dtype)
    exact = np.asarray(x, np.float64)
    step = 1e-6
    value = np.array([reference(point) for point in exact])
    derivative = np.array(
        [(reference(point + step) - reference(point - step)) / (2 * step) for point in exact]
    )
    y, pull_back = jax.vjp(activation, x)
    (dx,) = pull_back(jnp.ones_like(y))
    assert y.dtype == dx.dtype == x.dtype
    scale = np.maximum(np.abs(value), 1.0)
    assert np.max(np.abs(np.asarray(y, np.float64) - value) / scale) < bound
    scale = np.maximum(np.abs(derivative), 1.0)
    assert np.max(np.abs(np.asarray(dx, np.float64) - derivative) / scale) < bound


def test_value_and_derivative_share_one_exponential():
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(gelu_tanh(x))))(jnp.ones(3)))
    assert jaxpr.count(" exp ") + jaxpr.count(" tanh ") == 1


@pytest.mark.parametrize("activation", [gelu_exact, gelu_tanh, silu])
def test_the_backward_pass_keeps_one_array_in_the_compute_dtype(activation):
    x = jax.ShapeDtypeStruct((7,), jnp.bfloat16)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(activation, x)[1], x))
    assert [(array.shape, array.dtype) for array in kept] == [((7,), jnp.bfloat16)]


@pytest.mark.parametrize("activation", [gelu_tanh, silu, relu_squared])
def test_a_gate_on_a_gpu_has_the_values_and_gradients_of_a_cpu_and_keeps_its_inputs(activation):
    gate, up, dy = jax.random.normal(jax.random.key(0), (3, 64))

    def run(target):
        # Each is a trace of its own.
        with compiling_for(target):
            return jax.vjp(lambda gate, up: gated(activation, gate, up), gate, up)

    expected, pull = run(CompileTarget(platform="cpu"))
    found, pull_on_gpu = run(CompileTarget(platform="gpu", compute_capability=9.0))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for one, other in zip(pull_on_gpu(dy), pull(dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    kept = jax.tree.leaves(pull_on_gpu)
    assert all(any(array is one for one in (gate, up)) for array in kept), "nothing else is kept"


@pytest.mark.parametrize("activation", [gelu_tanh, silu, relu_squared])
def test_an_activation_on_a_gpu_has_the_bits_of_a_cpu_and_keeps_its_input(activation):
    x, dy = jax.random.normal(jax.random.key(0), (2, 512), "bfloat16")

    def run(target):
        with compiling_for(target):
            y, pull_back = jax.vjp(lambda x: activate(activation, x), x)
            return (y, pull_back(dy)), jax.tree.leaves(pull_back)

    expected, _ = run(CompileTarget(platform="cpu"))
    found, kept = run(CompileTarget(platform="gpu", compute_capability=9.0))
    assert len(kept) == 1
    assert np.array_equal(kept[0], x), "the product's result, no derivative"
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("is_recomputed", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_gelu_in_training_has_small_relative_errors_where_it_is_small(platform, is_recomputed):
    x = jnp.linspace(-4, -1, 200).astype("bfloat16")
    with compiling_for(CompileTarget(platform=platform)):

        def apply(x):
            return activate(gelu_tanh, x)

        y, pull_back = jax.vjp(jax.checkpoint(apply) if is_recomputed else apply, x)
        (dx,) = pull_back(jnp.ones_like(y))
    exact = np.asarray(x, np.float64)
    c, cube = np.sqrt(2 / np.pi), 0.044715
    tanh = np.tanh(c * (exact + cube * exact**3))
    slope = (1 - tanh**2) * c * (1 + 3 * cube * exact**2)
    # Two roundings of the result, 2^-9 each.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact * (1 + tanh) / 2, rtol=2**-8)
    derivative = (1 + tanh + exact * slope) / 2
    np.testing.assert_allclose(np.asarray(dx, np.float64), derivative, rtol=2**-8)
