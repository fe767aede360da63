"""Products of few rows equal float64 ones within the rounding of float32 sums."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.model.cpu.small_batch_matmul import TransposedKernel
from jaxgpt.model.layers.matmul import project

# Of the float32 sums; products of two bfloat16 are exact in them.
ROUND_OFF = 2.0**-23


@settings(max_examples=25, deadline=None)
@given(
    leading=st.sampled_from([(1,), (3, 1), (5, 13), (66,)]),
    inputs=st.sampled_from([(8,), (2, 5)]),
    outputs=st.sampled_from([(6,), (7,), (3, 4)]),
    transposed=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_project_is_the_exact_product_of_its_operands(leading, inputs, outputs, transposed, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*leading, *inputs)), dtype)
    shape = (*outputs, *inputs) if transposed else (*inputs, *outputs)
    kernel = jnp.asarray(rng.standard_normal(shape), "float32")
    found = jax.jit(project, static_argnums=(2, 3))(
        x, TransposedKernel(kernel), len(inputs), transposed
    )
    assert found.dtype == jnp.float32
    assert found.shape == (*leading, *outputs)

    x_RI = np.asarray(x, np.float64).reshape(-1, np.prod(inputs))
    kernel = np.asarray(kernel.astype(dtype), np.float64)
    num_inputs = int(np.prod(inputs))
    kernel_OI = kernel.reshape(-1, num_inputs) if transposed else kernel.reshape(num_inputs, -1).T
    exact = (x_RI @ kernel_OI.T).reshape(found.shape)
    bound = (num_inputs + 1) * ROUND_OFF * (abs(x_RI) @ abs(kernel_OI).T)
    assert (abs(np.asarray(found) - exact) <= bound.reshape(found.shape)).all()
