"""Which parameter gets which treatment, leaf by leaf, and that the chains do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.training.optimizer import (
    AdamW,
    Muon,
    clip_by_norm,
    is_matrix,
    is_orthogonalized,
)

# (axes, decays, gets Muon)
LEAVES = [
    (("vocab", "embed"), True, False),
    (("embed", "vocab"), True, False),
    (("position", "embed"), True, False),
    (("layers", "embed"), False, False),
    (("embed",), False, False),
    (("layers", "head_dim"), False, False),
    (("layers", "heads", "head_dim"), False, False),
    (("layers", "mlp"), False, False),
    (("layers", "embed", "heads", "head_dim"), True, True),
    (("layers", "embed", "kv_heads", "head_dim"), True, True),
    (("layers", "heads", "head_dim", "embed"), True, True),
    (("layers", "embed", "mlp"), True, True),
    (("layers", "mlp", "embed"), True, True),
    (("layers", "expert", "embed", "mlp"), True, True),
    (("layers", "expert", "mlp", "embed"), True, True),
    (("layers", "expert", "mlp"), False, False),
    (("layers", "expert", "embed"), False, False),
    (("layers", "embed", "router"), True, True),
]


@pytest.mark.parametrize(("axes", "decays", "muon"), LEAVES)
def test_treatment_of_each_kind_of_parameter(axes, decays, muon) -> None:
    assert is_matrix(axes) == decays
    assert is_orthogonalized(axes) == muon


def _update(optimizer, axes, params, grads):
    chain = optimizer.build(optax.constant_schedule(0.1), axes)
    updates, _ = chain.update(grads, chain.init(params), params)
    return updates


def test_adamw_decays_matrices_only() -> None:
    axes = {"kernel": ("layers", "embed", "mlp"), "scale": ("layers", "embed")}
    params = {"kernel": jnp.ones((2, 3, 4)), "scale": jnp.ones((2, 3))}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates = _update(AdamW(weight_decay=0.5), axes, params, zero)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_muon_orthogonalises_each_expert_by_itself() -> None:
    rng = np.random.default_rng(0)
    grads = {"kernel": jnp.asarray(rng.normal(size=(2, 3, 8, 16)), jnp.float32)}
    params = jax.tree.map(jnp.zeros_like, grads)
    optimizer = Muon(weight_decay=0.0, clip_norm=None)
    stacked = _update(optimizer, {"kernel": ("layers", "expert", "embed", "mlp")}, params, grads)
    for expert in range(3):
        alone = _update(
            optimizer,
            {"kernel": ("layers", "embed", "mlp")},
            {"kernel": params["kernel"][:, expert]},
            {"kernel": grads["kernel"][:, expert]},
        )
        np.testing.assert_allclose(stacked["kernel"][:, expert], alone["kernel"], rtol=1e-4)


def test_muon_orthogonalises_each_layer_by_itself_and_at_adams_size() -> None:
    axes = {"kernel": ("layers", "embed", "heads", "head_dim"), "bias": ("layers", "mlp")}
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.zeros((2, 8, 4, 8)), "bias": jnp.zeros((2, 8))}
    grads = {
        "kernel": jnp.asarray(rng.normal(size=(2, 8, 4, 8)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=(2, 8)), jnp.float32),
    }
    optimizer = Muon(weight_decay=0.0, clip_norm=None)
    updates = _update(optimizer, axes, params, grads)
    for layer in range(2):
        matrix = np.asarray(updates["kernel"][layer]).reshape(8, 32)
        # Newton-Schulz leaves singular values within about 0.7..1.2 of the target.
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2
    rms = float(jnp.sqrt(jnp.mean(updates["kernel"] ** 2)))
    assert rms == pytest.approx(0.1 * 0.2, rel=0.35)
    # A layer's update does not depend on another layer's gradient.
    other = {**grads, "kernel": grads["kernel"].at[1].multiply(100.0)}
    np.testing.assert_allclose(
        _update(optimizer, axes, params, other)["kernel"][0], updates["kernel"][0], rtol=1e-5
    )
    # The bias gets Adam's first update: the sign of its gradient.
    np.testing.assert_allclose(updates["bias"], -0.1 * np.sign(grads["bias"]), rtol=1e-3)


def test_clipping_scales_the_whole_tree() -> None:
    axes = {"a": ("embed",), "b": ("embed",)}
    params = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
    grads = {"a": jnp.full(4, 30.0), "b": jnp.full(4, 40.0)}
    chain = AdamW(clip_norm=1.0, eps=1.0, b1=0.0, b2=0.0).build(optax.constant_schedule(1.0), axes)
    updates, _ = chain.update(grads, chain.init(params), params)
    # With b1 = b2 = 0 and eps = 1, Adam gives g / (|g| + 1) of the clipped gradient.
    np.testing.assert_allclose(updates["a"], -0.3 / 1.3, rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -0.4 / 1.4, rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 0.01, 1.0, 30.0])
def test_gradients_are_clipped_as_optax_does(size):
    rng = np.random.default_rng(0)
    grads = {name: size * rng.standard_normal((5, 7)).astype(np.float32) for name in "ab"}
    theirs = optax.clip_by_global_norm(2.0)
    expected, _ = theirs.update(grads, theirs.init(grads))
    ours = clip_by_norm(2.0)
    for known in ({}, {"grad_norm": optax.tree.norm(grads)}):
        found, _ = ours.update(grads, ours.init(grads), **known)
        for name in grads:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_gradients_that_are_not_finite_are_not_made_so_by_clipping():
    clip = clip_by_norm(1.0)
    for value in (np.nan, np.inf):
        grads = {"a": np.array([1.0, value], np.float32)}
        found, _ = clip.update(grads, clip.init(grads))
        assert not np.isfinite(found["a"]).all()
