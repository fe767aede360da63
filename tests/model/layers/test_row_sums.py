"""Sums of rows by id: those of a scatter, in one order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.layers.embedding import Embedding
from jaxgpt.model.layers.projection import Dropout, Initialization, LayerSettings
from jaxgpt.model.layers.row_sums import sum_rows_by_id
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from jaxgpt.runtime.target import CompileTarget, compiling_for

WIDTH = 8


def _rows(shape: tuple[int, ...], num_ids: int) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Rows, ids of which few are frequent, and the sums in float64."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, shape) - 1, num_ids - 1).astype(np.int32)
    rows = jnp.asarray(rng.normal(size=(*shape, WIDTH)), jnp.bfloat16)
    sums = np.zeros((num_ids, WIDTH))
    np.add.at(sums, ids.ravel(), np.asarray(rows, np.float64).reshape(-1, WIDTH))
    return rows, jnp.asarray(ids), sums


# Fewer rows than a block, no whole number of blocks, one id over many blocks, ids that never occur.
@pytest.mark.parametrize(("shape", "num_ids"), [((2, 50), 40), ((3, 700), 3), ((4, 512), 5000)])
def test_sums_are_those_of_a_scatter(shape: tuple[int, int], num_ids: int) -> None:
    rows_BTD, ids_BT, expected_VD = _rows(shape, num_ids)
    table = jax.ShapeDtypeStruct((num_ids, WIDTH), jnp.float32)
    run = jax.jit(sum_rows_by_id, static_argnums=2)
    found_VD = np.asarray(run(rows_BTD, ids_BT, table), np.float64)
    assert np.linalg.norm(found_VD - expected_VD) <= 1e-6 * np.linalg.norm(expected_VD)
    np.testing.assert_array_equal(found_VD[expected_VD[:, 0] == 0], 0)


def test_two_programs_and_two_runs_give_the_same_bits() -> None:
    rows_BTD, ids_BT, _ = _rows((3, 700), 30)
    table = jax.ShapeDtypeStruct((30, WIDTH), jnp.float32)
    found = []
    for _ in range(2):
        run = jax.jit(lambda *inputs: sum_rows_by_id(*inputs, table)).lower(rows_BTD, ids_BT)
        compiled = run.compile()
        found += [np.asarray(compiled(rows_BTD, ids_BT)) for _ in range(2)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].view(np.uint32), other.view(np.uint32))


def test_devices_that_share_rows_width_and_table_find_the_same_gradient() -> None:
    settings = LayerSettings(
        d_model=WIDTH,
        num_layers=1,
        param_dtype="float32",
        compute_dtype="bfloat16",
        initialization=Initialization(),
        dropout=Dropout(),
    )
    layer = Embedding(num_rows=64, axes=("vocab", "embed"), std=0.5, settings=settings)
    dx_BTD, ids_BT, expected_VD = _rows((8, 100), 64)
    table = jnp.zeros((64, WIDTH))

    def gradient(table: jax.Array) -> jax.Array:
        look_up = lambda table: layer.apply({"params": {"table": table}}, ids_BT)  # noqa: E731
        return jax.vjp(look_up, table)[1](dx_BTD)[0]

    target = CompileTarget(platform="gpu", compute_capability=9.0, is_deterministic=True)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with compiling_for(target), on_mesh(mesh, ShardingRules()):
        found_VD = np.asarray(jax.jit(gradient)(table))
    np.testing.assert_allclose(found_VD, expected_VD, rtol=1e-5, atol=1e-5)
