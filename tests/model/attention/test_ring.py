"""Attention over rows that lie on several devices: the same numbers as on one."""

import dataclasses

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.attention import ring_exchange
from jaxgpt.model.attention.gpu import Cudnn
from jaxgpt.model.attention.kernel import AttentionInputs, ProbabilityDropout, Scores
from jaxgpt.model.attention.kernels import choose_kernel
from jaxgpt.model.attention.masks import AttentionMask, visible_keys
from jaxgpt.model.attention.reference import Reference
from jaxgpt.model.attention.ring import Ring
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from jaxgpt.runtime.target import CompileTarget, compiling_for
from tests.model.attention.test_kernels import (
    MASKS,
    RELATIVE_ERROR,
    SCORES,
    SEGMENTS,
    B,
    K,
    N,
    T,
    attend_float64,
    random_inputs,
)

RULES = {"heads": ShardingRules(), "copied key heads": ShardingRules(kv_heads=None)}


def _run(config, rules, inputs, mask, scores, dtype):
    """Output and gradients of `Ring` on a mesh, compiled anew: the rules are no argument."""
    mesh = make_mesh(config, jax.devices()[: np.prod(list(config.sizes.values()))])

    @jax.jit
    def run(q, k, v, dout, mask):
        out, pull_back = jax.vjp(
            lambda q, k, v: Ring().attend(AttentionInputs(q, k, v, mask, scores)), q, k, v
        )
        return out, *pull_back(dout)

    with on_mesh(mesh, rules):
        return run(*(jnp.asarray(x, dtype) for x in inputs), mask)


def _check(config, rules, mask, scores, dtype):
    inputs = [np.asarray(jnp.asarray(x, dtype), np.float64) for x in random_inputs()]
    visible = np.asarray(visible_keys(mask, slice(0, T), slice(0, T)))
    expected = attend_float64(inputs, visible, scores)
    found = _run(config, rules, inputs, mask, scores, dtype)
    for name, result, reference in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert result.dtype == jnp.dtype(dtype)
        error = np.linalg.norm(np.asarray(result, np.float64) - reference)
        size = max(np.linalg.norm(reference), np.sqrt(reference.size))
        assert error <= RELATIVE_ERROR[dtype] * size, name
    return found


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_three_devices_share_a_row(mask, monkeypatch):
    # 50 tokens on each device, in two pieces of 25.
    monkeypatch.setattr(ring_exchange, "_MAX_KEYS", 30)
    _check(MeshConfig(data=1, context=3), ShardingRules(), mask, SCORES["plain"], "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rows_and_heads_are_split_as_well(rules, dtype):
    found = _check(
        MeshConfig(data=2, context=2, tensor=2),
        rules,
        MASKS["segments and window"],
        SCORES["soft cap"],
        dtype,
    )
    assert {shard.data.shape for shard in found[0].addressable_shards} == {(1, 75, 2, 8)}


def test_without_a_mesh_it_is_attention_in_pieces():
    _check(MeshConfig(data=1), ShardingRules(), MASKS["segments"], SCORES["plain"], "float32")


def test_queries_without_keys_give_zeros():
    results = _run(
        MeshConfig(data=1, context=2),
        ShardingRules(),
        random_inputs(),
        AttentionMask(segment_ids_BT=SEGMENTS),
        SCORES["plain"],
        "float32",
    )
    for result in results:
        assert not result[1, 140:].any()
        assert np.isfinite(result).all()


def test_no_device_holds_the_keys_of_a_whole_row():
    mesh = make_mesh(MeshConfig(data=1, context=6), jax.devices()[:6])
    with on_mesh(mesh, ShardingRules()):
        placed = jax.sharding.PartitionSpec(None, "context")
        arrays = [
            jax.ShapeDtypeStruct((B, T, heads, 8), jnp.float32, sharding=_on(mesh, placed))
            for heads in (N, K, K)
        ]

        def attend(q, k, v):
            return Ring().attend(AttentionInputs(q, k, v, AttentionMask(), Scores(1.0)))

        program = jax.jit(attend).lower(*arrays).compile().as_text()
    assert "collective-permute" in program
    assert "all-gather" not in program


def test_a_loop_over_layers_keeps_no_masks_of_whole_rows():
    """Segments and positions are alike in all layers, and so are the masks of every piece."""
    mesh = make_mesh(MeshConfig(data=1, context=3), jax.devices()[:3])
    arrays = [jax.ShapeDtypeStruct((B, T, heads, 8), jnp.float32) for heads in (N, K, K)]
    segments = AttentionMask(segment_ids_BT=SEGMENTS)

    def loss(q, k, v):
        def layer(x, _):
            return Ring().attend(AttentionInputs(x, k, v, segments, Scores(1.0))), None

        return jnp.sum(jax.lax.scan(layer, q, length=4)[0])

    with on_mesh(mesh, ShardingRules()):
        program = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*arrays).jaxpr
    sizes = [variable.aval.size for variable in _outside_of_shards(program)]
    # What passes between forward and backward: inputs and outputs of the layers.
    assert max(sizes) == 4 * B * T * N * 8


def _outside_of_shards(program):
    """All results of a program but for those inside of a `shard_map`."""
    for equation in program.eqns:
        yield from equation.outvars
        if equation.primitive.name != "shard_map":
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from _outside_of_shards(inner)


def test_it_is_chosen_where_rows_are_split():
    q = jax.ShapeDtypeStruct((2, 16, 4, 8), jnp.bfloat16)
    inputs = AttentionInputs(q, q, q, AttentionMask(), Scores(1.0))
    mesh = make_mesh(MeshConfig(data=2, context=4))
    hopper = CompileTarget(platform="gpu", compute_capability=9.0)
    with compiling_for(hopper), on_mesh(mesh, ShardingRules()):
        assert choose_kernel(inputs) == (Ring(), "")
        dropout = ProbabilityDropout(jax.random.key(0), 0.1)
        kernel, why = choose_kernel(dataclasses.replace(inputs, dropout=dropout))
        assert kernel == Reference()
        assert why.startswith("Ring cannot: it has no dropout")
        assert Cudnn().refuses(inputs) is not None
    with on_mesh(make_mesh(MeshConfig()), ShardingRules()):
        assert choose_kernel(inputs)[0] != Ring()


def _on(mesh, spec):
    return jax.sharding.NamedSharding(mesh, spec)
