"""Newton-Schulz gives the numbers of one device on any mesh, each device doing its part of it."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as muon_of_optax

from jaxgpt.parallel.mesh import MeshConfig, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh, partition_spec
from jaxgpt.training.orthogonalization import newton_schulz, orthogonalize, scale_by_muon

# 3 layers: neither they nor all attention's matrices together can be dealt out evenly.
AXES = {
    "query": ("layers", "embed", "heads", "head_dim"),
    "output": ("layers", "heads", "head_dim", "embed"),
    "up": ("layers", "embed", "mlp"),
    "down": ("layers", "mlp", "embed"),
    "router": ("layers", "embed", "router"),
    "expert": ("layers", "expert", "embed", "mlp"),
}
SHAPES = {
    "query": (3, 16, 4, 4),
    "output": (3, 4, 4, 16),
    "up": (3, 16, 32),
    "down": (3, 32, 16),
    "router": (3, 16, 6),
    "expert": (3, 4, 16, 32),
}


def _arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def _run(mesh, arrays):
    """What comes out, and the compiled program."""
    rules = ShardingRules()
    with on_mesh(mesh, rules):
        places = {name: NamedSharding(mesh, partition_spec(AXES[name], rules)) for name in arrays}
        placed = {name: jax.device_put(array, places[name]) for name, array in arrays.items()}
        names = list(arrays)

        def work(values):
            found = orthogonalize([values[n] for n in names], [AXES[n] for n in names])
            return dict(zip(names, found, strict=True))

        program = jax.jit(work, out_shardings=places).lower(placed).compile()
        return jax.device_get(program(placed)), program


@pytest.fixture(scope="module")
def alone():
    return _run(single_device_mesh(), _arrays())


def _collectives(program) -> Counter[str]:
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return Counter(re.findall(rf" ({kinds})(?:-start)?\(", program.as_text()))


def _flops(program) -> float:
    analysis = program.cost_analysis()
    assert analysis is not None
    return analysis["flops"]


@pytest.mark.parametrize(
    ("mesh", "exchanges"),
    [
        # Two exchanges for each shape of matrix, twice as many where two axes split it:
        # query and output; up, down and expert, if experts are not split themselves; router.
        (MeshConfig(data=2, fsdp=4), 6),
        (MeshConfig(data=1, fsdp=2, expert=4), 8),
        (MeshConfig(data=2, fsdp=2, tensor=2), 10),
    ],
    ids=["data2-fsdp4", "fsdp2-expert4", "data2-fsdp2-tensor2"],
)
def test_every_mesh_gives_what_one_device_does_and_gathers_nothing(mesh, exchanges, alone) -> None:
    found, program = _run(make_mesh(mesh), _arrays())
    expected, whole = alone
    for name in SHAPES:
        error = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        assert error <= 1e-5, name
    collectives = _collectives(program)
    # XLA gathers no matrix; what a device works on came to it once, and goes back once.
    assert collectives["all-gather"] == collectives["collective-permute"] == 0
    assert collectives["all-to-all"] == exchanges
    # The work is shared: padding to equal numbers is what is above 1/n.
    parts = mesh.fsdp * mesh.tensor
    assert _flops(program) < 1.8 * _flops(whole) / parts


def test_a_mesh_that_splits_no_matrix_exchanges_nothing(alone) -> None:
    found, program = _run(make_mesh(MeshConfig(data=8)), _arrays())
    assert not _collectives(program)
    for name in SHAPES:
        np.testing.assert_array_equal(found[name], alone[0][name])


# One number, wide, square and tall matrices; each shape is compiled.
@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (4, 3, 12), (2, 7, 7)])
@settings(max_examples=10)
@given(size=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31))
def test_directions_stay_and_their_lengths_become_alike(count, rows, columns, size, seed) -> None:
    """Of each matrix, singular vectors are kept; f(X') = f(X)'; its scale does not matter."""
    x = np.random.default_rng(seed).normal(size=(count, rows, columns)).astype(np.float32)
    found = np.asarray(newton_schulz(jnp.asarray(x)))
    np.testing.assert_allclose(np.asarray(newton_schulz(jnp.asarray(size * x))), found, atol=2e-3)
    other = np.asarray(newton_schulz(jnp.asarray(x.swapaxes(1, 2)))).swapaxes(1, 2)
    np.testing.assert_allclose(other, found, atol=2e-3)
    for before, after in zip(x.astype(np.float64), found.astype(np.float64), strict=True):
        left, values, right = np.linalg.svd(before, full_matrices=False)
        core = left.T @ after @ right.T
        assert np.abs(core - np.diag(np.diag(core))).max() < 2e-2
        # Where a singular value is not tiny beside the others, five iterations bring it near 1.
        strong = values > 0.05 * np.linalg.norm(values)
        assert np.all((np.diag(core)[strong] > 0.5) & (np.diag(core)[strong] < 1.3))


def test_the_direction_is_that_of_optax() -> None:
    grads = [_arrays(seed) for seed in range(2)]
    numbers = {
        "query": MuonDimensionNumbers((1,), (2, 3)),
        "output": MuonDimensionNumbers((1, 2), (3,)),
        "up": MuonDimensionNumbers((1,), (2,)),
        "down": MuonDimensionNumbers((1,), (2,)),
        "router": MuonDimensionNumbers((1,), (2,)),
        "expert": MuonDimensionNumbers((2,), (3,)),
    }
    theirs = muon_of_optax(1.0, beta=0.9, consistent_rms=0.2, muon_weight_dimension_numbers=numbers)
    ours = scale_by_muon(AXES, beta=0.9, update_rms=0.2)
    their_state, our_state = theirs.init(grads[0]), ours.init(grads[0])
    for grad in grads:
        expected, their_state = jax.jit(theirs.update)(grad, their_state, grads[0])
        found, our_state = jax.jit(ours.update)(grad, our_state)
        for name in SHAPES:
            error = np.linalg.norm(found[name] + expected[name]) / np.linalg.norm(found[name])
            assert error <= 1e-5, name
