"""Both ways to apply experts, in a loop over blocks and as grouped products, against float64.

Axes: N tokens, D model, F hidden, E experts here, K chosen experts, A choices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.model.layers.matmul import project
from jaxgpt.model.moe.dropless import apply_in_blocks, make_blocks
from jaxgpt.model.moe.expert_groups import apply_in_groups
from jaxgpt.runtime.target import CompileTarget, compiling_for

N, D, F, E, K = 24, 20, 24, 3, 2
CPU = CompileTarget(platform="cpu")
INTERPRETED = CompileTarget(platform="cpu", interprets_kernels=True)
# A GPU that has no such kernels, as all have none inside of a pipeline's stages.
OLD_GPU = CompileTarget(platform="gpu", compute_capability=7.0)


def apply_expert(params, x_BTD):
    h_BTF = jnp.tanh(project(x_BTD, params["up"]) + params["bias"].astype(x_BTD.dtype))
    return project(h_BTF, params["down"], transposed=True)


def in_blocks(params, x_ND, gates_NK, experts_A):
    def apply_to_block(params, x_RD):
        return apply_expert(params, x_RD[None])[0]

    blocks = make_blocks(experts_A, E, 16)
    return apply_in_blocks(apply_to_block, params, x_ND, gates_NK, blocks)


def in_groups(num_parts, params, x_ND, gates_NK, experts_A):
    return apply_in_groups(apply_expert, params, x_ND, gates_NK, experts_A, 128, num_parts)


@functools.partial(jax.jit, static_argnums=0)
def run(function, params, x_ND, gates_NK, experts_A, dsum_ND):
    sums, pull_back = jax.vjp(lambda *inputs: function(*inputs, experts_A), params, x_ND, gates_NK)
    return sums, *pull_back(dsum_ND)


WAYS = {
    "blocks": (in_blocks, CPU),
    "blocks on a GPU": (in_blocks, OLD_GPU),
    "groups": (functools.partial(in_groups, 1), INTERPRETED),
    "groups in parts": (functools.partial(in_groups, 3), INTERPRETED),
}


def token_by_token(params, x_ND, gates_NK, experts_A, dsum_ND):
    """Return what `run` does, of numbers of float64."""
    sums, dx, dgates = np.zeros((N, D)), np.zeros((N, D)), np.zeros((N, K))
    dparams = jax.tree.map(np.zeros_like, params)
    for choice, e in enumerate(experts_A):
        n, k = divmod(choice, K)
        if e < E:
            up, bias, down = (params[name][e] for name in ("up", "bias", "down"))
            h = np.tanh(x_ND[n] @ up + bias)
            sums[n] += gates_NK[n, k] * (down @ h)
            dgates[n, k] = dsum_ND[n] @ (down @ h)
            dy = gates_NK[n, k] * dsum_ND[n]
            dsum_of_h = (dy @ down) * (1 - h**2)
            dparams["down"][e] += np.outer(dy, h)
            dparams["up"][e] += np.outer(x_ND[n], dsum_of_h)
            dparams["bias"][e] += dsum_of_h
            dx[n] += up @ dsum_of_h
    return sums, dparams, dx, dgates


def draw(seed):
    rng = np.random.default_rng(seed)
    params = {"up": (E, D, F), "bias": (E, F), "down": (E, D, F)}
    params = {name: 0.3 * rng.standard_normal(shape) for name, shape in params.items()}
    return params, rng.standard_normal((N, D)), rng.random((N, K)), rng.standard_normal((N, D))


def round_to_float32(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


# The share of choices that an expert gets; the last number is that of other devices' experts.
LOADS = st.sampled_from(
    [(1, 1, 1, 1), (0, 1, 1, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (9, 1, 1, 1)]
)


@pytest.mark.parametrize(("way", "target"), WAYS.values(), ids=WAYS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), load=LOADS)
def test_every_way_gives_what_each_token_alone_gives(way, target, seed, load) -> None:
    params, x_ND, gates_NK, dsum_ND = draw(seed)
    rng = np.random.default_rng(seed)
    experts_A = rng.choice(E + 1, N * K, p=np.array(load) / sum(load)).astype(np.int32)
    inputs = round_to_float32((params, x_ND, gates_NK))
    with compiling_for(target):
        found = run(way, *inputs, jnp.asarray(experts_A), round_to_float32(dsum_ND))
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (inputs, dsum_ND))
    expected = token_by_token(*exact[0], experts_A, exact[1])
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.optimized
@pytest.mark.parametrize(("way", "target"), WAYS.values(), ids=WAYS)
def test_a_second_run_gives_the_same_bits(way, target) -> None:
    params, x_ND, gates_NK, dsum_ND = round_to_float32(draw(0))
    experts_A = jnp.asarray(np.arange(N * K) % (E + 1), jnp.int32)
    with compiling_for(target):
        first, second = (run(way, params, x_ND, gates_NK, experts_A, dsum_ND) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
