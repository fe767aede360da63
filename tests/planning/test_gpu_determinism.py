"""The gradient of a look-up, compiled for an NVIDIA GPU that is not here: in which order it adds.

Skipped without the extra `gpu-compile`.
"""

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.model.layers.embedding import Embedding
from jaxgpt.model.layers.projection import Dropout, Initialization, LayerSettings
from jaxgpt.planning.cross_compile import (
    compile_only_devices,
    compiler_options,
    compiling_on,
    has_gpu_compiler,
)
from jaxgpt.planning.devices import find_device
from jaxgpt.planning.program import Program, called_by, read_program

pytestmark = pytest.mark.skipif(
    not has_gpu_compiler(), reason="XLA's GPU compiler is absent: pip install -e '.[gpu-compile]'"
)
NUM_ROWS, WIDTH, IDS = 512, 64, (4, 384)
H100 = find_device("h100")
LAYER = Embedding(
    num_rows=NUM_ROWS,
    axes=("vocab", "embed"),
    std=0.5,
    settings=LayerSettings(
        d_model=WIDTH,
        num_layers=1,
        param_dtype="float32",
        compute_dtype="bfloat16",
        initialization=Initialization(),
        dropout=Dropout(),
    ),
)


def _gradient(table: jax.Array, ids: jax.Array, dx: jax.Array) -> jax.Array:
    return jax.vjp(lambda table: LAYER.apply({"params": {"table": table}}, ids), table)[1](dx)[0]


def _compile(is_deterministic: bool) -> Program:
    sharding = jax.sharding.SingleDeviceSharding(compile_only_devices(H100, 1)[0])
    shapes = [((NUM_ROWS, WIDTH), jnp.float32), (IDS, jnp.int32), ((*IDS, WIDTH), jnp.bfloat16)]
    inputs = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes]
    with compiling_on(H100, is_deterministic):
        lowered = jax.jit(_gradient).lower(*inputs)
        compiled = lowered.compile(compiler_options=compiler_options(is_deterministic))
    text = compiled.as_text()
    assert text is not None
    return read_program(text)


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_a_scatter_adds_to_one_place_twice_only_where_any_order_will_do(is_deterministic) -> None:
    program = _compile(is_deterministic)
    scatters = [one for one, _ in program.operations() if one.opcode == "scatter"]
    assert scatters
    for operation in scatters:
        (combined,) = called_by(operation)
        adds = program.computations[combined][-1].opcode == "add"
        assert adds != is_deterministic
        assert ("unique_indices=true" in operation.text) == is_deterministic
