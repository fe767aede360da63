"""Unrolled or scanned, with or without recomputation: the same numbers from the same tree."""

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import configclass, replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.layer_stack import ForwardContext, LayerProgram, Scanned, Unrolled
from jaxgpt.model.layers.feed_forward import FeedForward
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.model.remat import FullRemat, NoRemat, SaveDots
from tests.model import tiny_model
from tests.model.tiny_model import FAMILIES, VARIANTS

DROPOUT = Dropout(embedding=0.1, attention=0.1, residual=0.2)


def make_loss(config, dropout_seed=None):
    """Loss of parameters on fixed tokens, in rows of two segments and of one with padding."""
    model = config.build(tiny_model.VOCAB_SIZE)
    tokens = tiny_model.random_tokens((2, 8))
    segment_ids = jnp.asarray([[1] * 5 + [2] * 3, [1] * 6 + [0] * 2])
    # This generator compiles several times faster than the default one.
    rngs = None
    if dropout_seed is not None:
        rngs = {"dropout": jax.random.key(dropout_seed, impl="rbg")}

    def loss(params):
        logits, _ = model.apply(
            {"params": params}, tokens, segment_ids, deterministic=rngs is None, rngs=rngs
        )
        return jnp.sum(jnp.square(logits[..., : tiny_model.VOCAB_SIZE]))

    return loss


def loss_and_gradient(config, params, dropout_seed=None):
    """Loss and gradient; see `make_loss`."""
    return jax.jit(jax.value_and_grad(make_loss(config, dropout_seed)))(params)


def loss_only(config, params, dropout_seed=None):
    """Loss; see `make_loss`."""
    return jax.jit(make_loss(config, dropout_seed))(params)


def assert_same(found, expected, tolerance=1e-5):
    """Loss and every leaf of the gradient agree in norm."""
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    assert jax.tree.structure(found[1]) == jax.tree.structure(expected[1])
    for left, right in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        assert np.linalg.norm(left - right) <= tolerance * np.linalg.norm(right)


@pytest.mark.parametrize("name", ["gemma2", "three windows over four layers"])
def test_scanned_layers_equal_unrolled_ones(name):
    config = replace(VARIANTS[name], dropout=DROPOUT)
    _, params = tiny_model.init(config)
    expected = loss_and_gradient(config, params, dropout_seed=3)
    scanned = replace(config, layers=Scanned())
    assert_same(loss_and_gradient(scanned, params, dropout_seed=3), expected)
    scanned = replace(config, layers=Scanned(unroll=2))
    np.testing.assert_allclose(loss_only(scanned, params, 3), expected[0], rtol=1e-5)


def test_recomputation_changes_nothing():
    config = replace(FAMILIES["llama3"], dropout=DROPOUT)
    _, params = tiny_model.init(config)
    expected = loss_and_gradient(config, params, dropout_seed=3)
    for layers in (Unrolled(), Scanned()):
        for remat in (FullRemat(), SaveDots()):
            changed = replace(config, layers=layers, remat=remat)
            assert_same(loss_and_gradient(changed, params, dropout_seed=3), expected)


def count(name, program):
    """Equations of one primitive in a program and, at each call, in what it calls."""
    return sum(
        (equation.primitive.name == name)
        + sum(count(name, inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
        for equation in program.eqns
    )


def test_layers_of_a_kind_are_traced_once():
    """Python need not run again for each layer; its parameters and its number are its own."""
    calls = []

    def apply_layer(params, context, carry, layer, pattern_index):
        calls.append(pattern_index)
        return carry * params + layer

    def run(layers):
        def apply_all(params, x):
            program = LayerProgram(
                apply_layer=apply_layer,
                params=params,
                context=ForwardContext(None),
                num_layers=6,
                pattern_length=2,
                remat=FullRemat(),
            )
            return layers.run(program, x)

        return jax.jit(apply_all)(jnp.arange(6.0), jnp.ones(()))

    np.testing.assert_array_equal(run(Unrolled()), run(Scanned()))
    assert sorted(calls) == [0, 0, 1, 1]


def test_each_policy_recomputes_more():
    """Matrix products of a gradient: none repeated; those of attention; all that are needed."""

    def count_products(remat):
        config = replace(FAMILIES["llama3"], remat=remat)
        _, params = tiny_model.init(config)
        return count("dot_general", jax.make_jaxpr(jax.grad(make_loss(config)))(params).jaxpr)

    nothing, attention, everything = (
        count_products(remat) for remat in (NoRemat(), SaveDots(), FullRemat())
    )
    assert attention - nothing == 2 * 2
    # All projections of both layers but `down`, whose result no gradient needs.
    assert everything - attention == 2 * 6


def test_dropout_is_a_function_of_its_key():
    config = replace(FAMILIES["gpt2"], dropout=DROPOUT)
    _, params = tiny_model.init(config)
    first, again, other = (loss_only(config, params, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@configclass
class Ones(FeedForward):
    """Adds 1 to everything, so that what dropout leaves can be counted."""

    def build(self, settings, name):
        return OnesLayer(name=name)


class OnesLayer(nn.Module):
    @nn.compact
    def __call__(self, x_BTD, valid_BT, deterministic):
        return jnp.ones_like(x_BTD)


@pytest.mark.parametrize("layers", [Unrolled(), Scanned()])
def test_layers_drop_different_elements(layers):
    config = replace(FAMILIES["llama3"], feed_forward=Ones(), layers=layers)
    config = replace(config, dropout=Dropout(residual=0.5))
    model, params = tiny_model.init(config)
    params = jax.tree.map(jnp.zeros_like, params)
    params["final_norm"]["scale"] = jnp.ones(32)
    hidden, _ = model.apply(
        {"params": params},
        jnp.asarray([[3]]),
        deterministic=False,
        rngs={"dropout": jax.random.key(0)},
        method="hidden_states",
    )
    # Kept by neither, one, or both of the two layers.
    assert len(np.unique(np.round(hidden, 3))) == 3


@pytest.mark.parametrize("place", ["embedding", "attention", "residual"])
def test_each_place_of_dropout_is_used_in_training_only(place):
    config = FAMILIES["gpt2"]
    _, params = tiny_model.init(config)
    plain = loss_only(config, params)
    dropped = replace(config, dropout=Dropout(**{place: 0.3}))
    assert loss_only(dropped, params, 0) != plain
    np.testing.assert_allclose(loss_only(dropped, params), plain, rtol=1e-5)


def test_gradient_of_stacked_layers_is_not_a_sum_of_padded_copies():
    """L layers must not cost L passes over the whole stack's gradient."""
    config = FAMILIES["gpt2"]
    model, params = tiny_model.init(config)
    tokens = tiny_model.random_tokens((1, 4))
    gradient = jax.grad(lambda p: jnp.sum(model.apply({"params": p}, tokens)[0]))
    text = str(jax.make_jaxpr(gradient)(params))
    assert "split[" in text
    assert " pad[" not in text


def test_unroll_must_be_positive():
    with pytest.raises(ConfigError, match="unroll must be at least 1, not 0"):
        Scanned(unroll=0)
