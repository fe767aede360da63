"""Numbers in 8 bits: restored within half a step, multiplied as what they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxgpt.model.layers.int8 import Int8Kernel, round_to_int8
from jaxgpt.model.layers.matmul import project

NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32)


@settings(max_examples=40)
@given(
    # Each shape is compiled.
    st.sampled_from([(1, 1), (5, 3), (2, 4, 5)]).flatmap(
        lambda shape: arrays(np.float32, shape, elements=NUMBERS)
    )
)
def test_a_number_is_restored_within_half_a_step(x: np.ndarray) -> None:
    codes, scales = (np.asarray(part) for part in round_to_int8(jnp.asarray(x), (1,)))
    assert (codes.dtype, codes.shape) == (np.int8, x.shape)
    assert codes.min() >= -127
    steps = np.expand_dims(scales, 1)
    np.testing.assert_allclose(steps[:, 0] * 127, np.abs(x).max(axis=1), rtol=1e-6, atol=2e-36)
    # Where even a step is too small for float32, numbers are restored as zeros.
    error = np.abs(codes * steps.astype(np.float64) - x)
    assert np.all(error <= steps * 0.50001 + 2e-36)


@pytest.mark.parametrize("transposed", [False, True], ids=["kernel", "transposed"])
@pytest.mark.parametrize("num_inputs", [1, 2])
def test_a_product_is_that_of_the_restored_numbers(transposed: bool, num_inputs: int) -> None:
    rng = np.random.default_rng(0)
    inputs, outputs = (6, 4)[:num_inputs], (5, 3)
    shape = outputs + inputs if transposed else inputs + outputs
    first = len(outputs) if transposed else 0
    axes = tuple(range(first, first + num_inputs))
    # Each output has a size of its own.
    kernel = rng.normal(size=shape) * np.expand_dims(10.0 ** rng.integers(-3, 4, outputs), axes)
    codes, scales = round_to_int8(jnp.asarray(kernel), axes)
    assert scales.shape == outputs
    restored = codes * jnp.expand_dims(scales, axes)
    x = jnp.asarray(rng.normal(size=(2, 7, *inputs)), jnp.float32)
    found = project(x, Int8Kernel(codes, scales), num_inputs, transposed)
    x_codes, x_scales = round_to_int8(x, tuple(range(2, x.ndim)))
    rounded_x = x_codes * jnp.expand_dims(x_scales, tuple(range(2, x.ndim)))
    expected = project(rounded_x, restored, num_inputs, transposed)
    size = np.abs(expected).max(axis=(0, 1), keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, atol=1e-6)


def test_a_row_of_a_table_is_looked_up_restored_and_an_id_beyond_takes_the_last() -> None:
    codes, scales = round_to_int8(jnp.asarray(np.random.default_rng(0).normal(size=(9, 4))), (1,))
    ids = jnp.asarray([[3, 0], [8, 99]])
    found = Int8Kernel(codes, scales).look_up(ids, jnp.float32)
    np.testing.assert_array_equal(found, (codes * scales[:, None])[np.array([[3, 0], [8, 8]])])
