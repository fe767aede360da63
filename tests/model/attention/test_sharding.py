"""Attention on every device's own rows and heads is attention on all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.attention.cpu import CpuBlockwise
from jaxgpt.model.attention.kernel import AttentionInputs, Scores
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.parallel.mesh import MeshConfig, make_mesh, single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules, on_mesh

B, T, N, H = 8, 32, 8, 8


def _attend_and_gradients(mesh, num_kv_heads, dtype, rules=ShardingRules()):  # noqa: B008
    rng = np.random.default_rng(0)
    q, dout = (jnp.asarray(rng.standard_normal((B, T, N, H)), dtype) for _ in range(2))
    k, v = (jnp.asarray(rng.standard_normal((B, T, num_kv_heads, H)), dtype) for _ in range(2))
    mask = AttentionMask(segment_ids_BT=jnp.asarray(np.sort(rng.integers(0, 3, (B, T)))))

    @jax.jit
    def run(q, k, v, dout):
        out, gradients = jax.vjp(
            lambda q, k, v: CpuBlockwise().attend(AttentionInputs(q, k, v, mask, Scores(H**-0.5))),
            q,
            k,
            v,
        )
        return (out, *gradients(dout))

    with on_mesh(mesh, rules):
        lowered = run.lower(q, k, v, dout)
        return [np.asarray(x, np.float32) for x in run(q, k, v, dout)], lowered.compile().as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("mesh", "num_kv_heads", "rules"),
    [
        (MeshConfig(data=8), 2, ShardingRules()),
        (MeshConfig(data=2, tensor=4), 4, ShardingRules()),
        # Fewer key/value heads than parts: each device keeps all of them.
        (MeshConfig(data=1, fsdp=2, tensor=4), 2, ShardingRules(kv_heads=None)),
        # A head's width is brought together: a score is a sum over it.
        (
            MeshConfig(data=2, tensor=4),
            2,
            ShardingRules(heads=None, kv_heads=None, head_dim="tensor"),
        ),
    ],
    ids=["data", "tensor", "kept-kv-heads", "width"],
)
def test_split_over_devices_it_is_the_same(mesh, num_kv_heads, rules, dtype):
    whole, _ = _attend_and_gradients(single_device_mesh(), num_kv_heads, dtype)
    parts, text = _attend_and_gradients(make_mesh(mesh), num_kv_heads, dtype, rules)
    for ours, theirs in zip(parts, whole, strict=True):
        tolerance = 1e-6 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    if mesh == MeshConfig(data=8):
        assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
