"""Projection and embedding: the product, its hand-written gradient, names of axes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers.embedding import Embedding
from jaxgpt.model.layers.matmul import for_products, project
from jaxgpt.model.layers.projection import (
    Dropout,
    Initialization,
    LayerSettings,
    Projection,
)
from jaxgpt.runtime.target import CompileTarget, compiling_for

SETTINGS = LayerSettings(
    d_model=6,
    num_layers=2,
    param_dtype="float32",
    compute_dtype="bfloat16",
    initialization=Initialization(),
    dropout=Dropout(),
)
# A rounding to float32 or bfloat16 of operands and result, times a little for sums.
RELATIVE_ERROR = {"float32": 1e-6, "bfloat16": 1.5e-2}


def assert_near(found, expected: np.ndarray, dtype: str) -> None:
    """Error in norm, relative to the expected norm."""
    error = np.linalg.norm(np.asarray(found, np.float64) - expected)
    assert error <= RELATIVE_ERROR[dtype] * np.linalg.norm(expected)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "num_inputs", "transposed", "equation"),
    [
        ((3, 5, 6), (6, 7), 1, False, "BTD,DF->BTF"),
        ((3, 5, 6), (6, 2, 4), 1, False, "BTD,DNH->BTNH"),
        ((3, 5, 2, 4), (2, 4, 6), 2, False, "BTNH,NHD->BTD"),
        ((3, 5, 6), (11, 6), 1, True, "BTD,VD->BTV"),
        ((5, 6), (6, 3), 1, False, "BD,DC->BC"),
        # Few and many tokens: the gradient is made as the kernel lies, or the narrower one first.
        ((2, 2, 6), (11, 6), 1, True, "BTD,VD->BTV"),
        ((8, 5, 9), (9, 2), 1, False, "BTF,FD->BTD"),
        ((1, 2, 9), (9, 2), 1, False, "BTF,FD->BTD"),
        ((4, 6), (11, 6), 1, True, "ND,VD->NV"),
        ((64, 6), (11, 6), 1, True, "ND,VD->NV"),
        ((3, 5, 6), (2, 4, 6), 1, True, "BTD,NHD->BTNH"),
    ],
)
def test_product_and_gradients_against_float64(
    x_shape, kernel_shape, num_inputs, transposed, equation, dtype, platform
):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape)
    kernel = rng.standard_normal(kernel_shape)
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    dy = rng.standard_normal(np.einsum(equation, x, kernel).shape)

    x_low = jnp.asarray(x, dtype)
    with compiling_for(CompileTarget(platform=platform)):
        y, pull_back = jax.vjp(
            lambda x, kernel: project(x, kernel, num_inputs, transposed),
            x_low,
            jnp.asarray(kernel, jnp.float32),
        )
        dx, dkernel = pull_back(jnp.asarray(dy, jnp.float32))

    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.float32, x_low.dtype, jnp.float32)
    assert_near(y, np.einsum(equation, x, kernel), dtype)
    assert_near(dx, np.einsum(f"{output},{right}->{left}", dy, kernel), dtype)
    assert_near(dkernel, np.einsum(f"{left},{output}->{right}", x, dy), dtype)


def test_gradient_multiplies_operands_of_the_compute_dtype_only():
    def loss(x, kernel):
        return jnp.sum(project(x, kernel).astype(jnp.bfloat16).astype(jnp.float32) ** 2)

    x, kernel = jnp.ones((4, 6), jnp.bfloat16), jnp.ones((6, 3), jnp.float32)
    jaxpr = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, kernel))
    products = [line for line in jaxpr.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert all("preferred_element_type=float32" in jaxpr for _ in products)
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).as_text()
    operands = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(operands) == 3
    for line in operands:
        left_and_right = line.split(" : ")[-1].split("->")[0]
        assert left_and_right.count("bf16>") == 2, line


def test_projection_adds_its_bias_and_names_its_axes():
    layer = Projection(
        inputs=(6,),
        outputs=(2, 3),
        axes=("embed", "heads", "head_dim"),
        settings=SETTINGS,
        kernel_init=nn.initializers.ones,
        use_bias=True,
    )
    x = jnp.ones((1, 4, 6))
    variables = layer.init(jax.random.key(0), x)
    specs = nn.get_partition_spec(variables)["params"]
    assert tuple(specs["kernel"]) == ("embed", "heads", "head_dim")
    assert tuple(specs["bias"]) == ("heads", "head_dim")
    params = nn.meta.unbox(variables)
    params["params"]["bias"] = jnp.arange(6.0).reshape(2, 3)
    y = layer.apply(params, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[0, 0], [[6, 7, 8], [9, 10, 11]])


def test_embedding_looks_rows_up_and_sums_their_gradients():
    layer = Embedding(num_rows=5, axes=("vocab", "embed"), std=0.5, settings=SETTINGS)
    ids = jnp.asarray([[1, 1, 4]])
    params = nn.meta.unbox(layer.init(jax.random.key(0), ids))
    np.testing.assert_array_equal(
        layer.apply(params, ids)[0], params["params"]["table"][ids[0]].astype(jnp.bfloat16)
    )
    gradient = jax.grad(lambda p: jnp.sum(layer.apply(p, ids).astype(jnp.float32)))(params)
    np.testing.assert_array_equal(gradient["params"]["table"][:, 0], [0, 2, 0, 0, 1])


def test_residual_outputs_start_smaller_or_at_zero():
    key, shape = jax.random.key(0), (500, 500)
    assert float(jnp.std(SETTINGS.kernel_init(key, shape))) == pytest.approx(0.02, rel=0.01)
    small = float(jnp.std(SETTINGS.residual_output_init(key, shape)))
    assert small == pytest.approx(0.02 / 4**0.5, rel=0.01)
    settings = LayerSettings(
        d_model=6,
        num_layers=2,
        param_dtype="float32",
        compute_dtype="float32",
        initialization=Initialization(zero_output=True),
        dropout=Dropout(),
    )
    assert not settings.residual_output_init(key, shape).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dropout(residual=1.0), r"residual must be in \[0, 1\), not 1.0"),
        (lambda: Dropout(attention=-0.1), r"attention must be in \[0, 1\), not -0.1"),
        (lambda: Initialization(std=0.0), r"std must be positive, not 0.0"),
    ],
)
def test_impossible_values_are_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_an_input_of_several_products_gets_the_sum_of_their_gradients(platform: str) -> None:
    x = jnp.arange(3.0)

    def combine(x: jax.Array) -> jax.Array:
        first, second, third = for_products(x, 3)
        return jnp.sum(first**2 + 5 * second + third**3)

    with compiling_for(CompileTarget(platform=platform)):
        np.testing.assert_array_equal(jax.grad(combine)(x), 2 * x + 5 + 3 * x**2)
