"""Pallas' attention: its program interpreted against float64, and compiled for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from jaxgpt.model.attention.gpu import pallas_attention
from jaxgpt.model.attention.kernel import Scores
from jaxgpt.model.attention.masks import AttentionMask, visible_keys
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh
from tests.model.attention.test_kernels import attend_float64

# Row 0: two documents; row 1: three, one of a single token, and padding.
B, T, N, K, H = 2, 64, 4, 2, 16
SEGMENTS_BT = jnp.asarray(
    [np.repeat([1, 2], [40, 24]), np.repeat([1, 2, 3, 0], [17, 1, 30, 16])], jnp.int32
)


def _inputs(num_rows=B):
    rng = np.random.default_rng(0)
    shapes = [(num_rows, T, N, H), (num_rows, T, K, H), (num_rows, T, K, H), (num_rows, T, N, H)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, static_argnames="interpreted")
def _run(q, k, v, dout, segment_ids, interpreted=True):
    def attend(q, k, v):
        return pallas_attention(q, k, v, segment_ids, H**-0.5, interpreted)

    out, pull_back = jax.vjp(attend, q, k, v)
    return out, *pull_back(dout)


@pytest.mark.parametrize("segment_ids_BT", [None, SEGMENTS_BT], ids=["whole", "packed"])
def test_output_and_gradients_against_float64(segment_ids_BT):
    mask = AttentionMask(segment_ids_BT=segment_ids_BT)
    visible = np.asarray(visible_keys(mask, slice(0, T), slice(0, T)))
    inputs = _inputs()
    expected = attend_float64(
        [np.asarray(x, np.float64) for x in inputs], visible, Scores(H**-0.5), num_groups=N // K
    )
    found = _run(*inputs, segment_ids_BT)
    for name, result, reference in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        error = np.linalg.norm(np.asarray(result, np.float64) - reference)
        assert error <= 1e-5 * np.linalg.norm(reference), name
    if segment_ids_BT is not None:
        for result in found:
            assert not result[1, 48:].any(), "padding"


@pytest.mark.parametrize("axes", [{"data": 4, "tensor": 2}, {"data": 8}])
def test_rows_and_heads_may_lie_on_several_devices(axes):
    inputs = _inputs(8)
    segment_ids = jnp.tile(SEGMENTS_BT, (4, 1))
    expected = _run(*inputs, segment_ids)
    with on_mesh(make_mesh(MeshConfig(**axes)), ShardingRules()):
        # A program of its own: where arrays lie is decided while it is traced.
        found = jax.jit(lambda *arrays: _run.__wrapped__(*arrays))(*inputs, segment_ids)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_it_compiles_to_kernels_of_a_gpu_and_holds_no_scores():
    num_tokens, head_dim = 256, 64
    query = jax.ShapeDtypeStruct((B, num_tokens, N, head_dim), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((B, num_tokens, K, head_dim), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((B, num_tokens), jnp.int32)
    # From JAX 0.11 on, lowering to Triton asks which GPU it is for; none needs to be there.
    gpu = AbstractDevice("NVIDIA H100 80GB HBM3", None, "cuda")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=gpu)):
        traced = _run.trace(query, key, key, query, ids, interpreted=False)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Forward pass, what the backward pass prepares, backward pass.
    assert program.count("__gpu$xla.gpu.triton") == 3
    assert f"{num_tokens}x{num_tokens}x" not in program
