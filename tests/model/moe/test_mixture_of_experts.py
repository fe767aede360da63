"""Experts against the same experts all computed densely; who is dropped; what routers report.

Axes: B rows, T tokens, D model, E experts, K chosen experts, L layers, A choices.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.feed_forward import Gelu, SwiGlu
from jaxgpt.model.moe.dispatch import Capacity, Dropless, assign_slots
from jaxgpt.model.moe.dropless import make_blocks
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.model.moe.router import Choice, NormalizedGates, SoftmaxGates
from jaxgpt.model.moe.routing_stats import ROUTING
from tests.model import tiny_model
from tests.model.tiny_model import PLAIN

B, T, D, E, K = 3, 10, 32, 4, 2
DISPATCHES = {"dropless": Dropless(block_size=4), "capacity": Capacity(factor=E / K)}
HALVES = (slice(0, 2), slice(2, 4))
MOE = MixtureOfExperts(num_experts=E, expert=SwiGlu(hidden=12), dispatch=Dropless(block_size=4))


def draw(config, seed=0):
    """A layer, random parameters, inputs, and which inputs are not padding."""
    layer = config.build(PLAIN.settings, "feed_forward")
    rng = np.random.default_rng(seed)
    x_BTD = jnp.asarray(rng.standard_normal((B, T, D)), jnp.float32)
    valid_BT = jnp.arange(T)[None, :] < jnp.array([T, 7, 0])[:, None]
    boxed = jax.eval_shape(layer.init, jax.random.key(0), x_BTD, valid_BT, True)["params"]
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32),
        nn.meta.unbox(boxed),
    )
    return layer, params, x_BTD, valid_BT


@functools.partial(jax.jit, static_argnums=0)
def run(layer, params, x_BTD, valid_BT):
    y_BTD, written = layer.apply({"params": params}, x_BTD, valid_BT, True, mutable=[ROUTING])
    return y_BTD, written[ROUTING]["rows"]


def densely(config, params, x_BTD, valid_BT):
    """Every expert on every token, times its gate or 0."""
    logits_BTE = x_BTD @ params["router"]["kernel"]
    threshold_BT1 = jnp.sort(logits_BTE, axis=-1)[..., -config.num_active, None]
    chosen_BTE = (logits_BTE >= threshold_BT1) & valid_BT[..., None]
    probability_BTE = jax.nn.softmax(logits_BTE, axis=-1)
    gates_BTE = jnp.where(chosen_BTE, probability_BTE, 0.0)
    if config.gates == NormalizedGates():
        total_BT1 = jnp.sum(gates_BTE, axis=-1, keepdims=True)
        gates_BTE = gates_BTE / jnp.where(total_BT1 == 0, 1.0, total_BT1)
    expert = config.expert.build(PLAIN.settings, "expert")
    y_EBTD = jax.vmap(lambda one: expert.apply({"params": one}, x_BTD, valid_BT, True))(
        params["experts"]
    )
    y_BTD = jnp.einsum("EBTD,BTE->BTD", y_EBTD, gates_BTE)
    if config.shared is not None:
        shared = config.shared.build(PLAIN.settings, "shared")
        y_BTD = y_BTD + shared.apply({"params": params["shared"]}, x_BTD, valid_BT, True)
    count_B1 = jnp.maximum(jnp.sum(valid_BT, axis=1, keepdims=True), 1)
    share_BE = jnp.sum(chosen_BTE, axis=1) / count_B1 / config.num_active
    mean_BE = jnp.sum(probability_BTE * valid_BT[..., None], axis=1) / count_B1
    balance_B = config.num_experts * jnp.sum(share_BE * mean_BE, axis=-1)
    square_BT = jax.nn.logsumexp(logits_BTE, axis=-1) ** 2 * valid_BT
    z_loss_B = jnp.sum(square_BT, axis=1) / count_B1[:, 0]
    return y_BTD, config.load_balance * balance_B + config.router_z_loss * z_loss_B


@pytest.mark.parametrize("dispatch", DISPATCHES.values(), ids=DISPATCHES)
@pytest.mark.parametrize(
    "config",
    [
        replace(MOE, load_balance=0.5, router_z_loss=0.1),
        replace(MOE, gates=SoftmaxGates(), shared=SwiGlu(hidden=8)),
        replace(MOE, expert=Gelu(hidden=8, use_bias=True), num_active=1, gates=SoftmaxGates()),
    ],
    ids=["normalised", "softmax, shared", "one, biases"],
)
def test_outputs_and_gradients_are_those_of_all_experts_computed_densely(config, dispatch) -> None:
    if isinstance(dispatch, Capacity):
        dispatch = Capacity(factor=E / config.num_active)
    config = replace(config, dispatch=dispatch)
    layer, params, x_BTD, valid_BT = draw(config)

    def loss(function):
        def total(params, x_BTD):
            y_BTD, auxiliary_B = function(params, x_BTD)
            wave_BTD = jnp.cos(jnp.arange(y_BTD.size, dtype=jnp.float32)).reshape(y_BTD.shape)
            return jnp.sum(jnp.sin(y_BTD) * wave_BTD) + jnp.sum(auxiliary_B)

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))

    def sparse(params, x_BTD):
        y_BTD, routing = run(layer, params, x_BTD, valid_BT)
        return y_BTD, routing.auxiliary_B

    found = loss(sparse)(params, x_BTD)
    expected = loss(lambda params, x: densely(config, params, x, valid_BT))(params, x_BTD)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("dispatch", DISPATCHES.values(), ids=DISPATCHES)
def test_identical_experts_are_one_dense_layer(dispatch) -> None:
    layer, params, x_BTD, valid_BT = draw(replace(MOE, dispatch=dispatch))
    params["experts"] = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), params["experts"]
    )
    one = jax.tree.map(lambda leaf: leaf[0], params["experts"])
    dense = MOE.expert.build(PLAIN.settings, "expert")
    expected = dense.apply({"params": one}, x_BTD, valid_BT, True) * valid_BT[..., None]
    found, _ = run(layer, params, x_BTD, valid_BT)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dispatch", [*DISPATCHES.values(), Capacity(factor=0.7)], ids=str)
def test_the_order_of_the_experts_changes_nothing(dispatch) -> None:
    layer, params, x_BTD, valid_BT = draw(replace(MOE, dispatch=dispatch))
    order = np.array([2, 0, 3, 1])
    other = {
        "router": {"kernel": params["router"]["kernel"][:, order]},
        "experts": jax.tree.map(lambda leaf: leaf[order], params["experts"]),
    }
    (first, routing), (second, reordered) = (
        run(layer, either, x_BTD, valid_BT) for either in (params, other)
    )
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(routing.load_BE[:, order], reordered.load_BE)
    np.testing.assert_array_equal(routing.dropped_B, reordered.dropped_B)
    np.testing.assert_allclose(routing.auxiliary_B, reordered.auxiliary_B, rtol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("dispatch", [Dropless(block_size=4), Capacity(factor=0.7)], ids=str)
def test_no_token_depends_on_a_later_one_or_on_another_row(dispatch) -> None:
    layer, params, x_BTD, _ = draw(replace(MOE, dispatch=dispatch))
    everything = jnp.ones((B, T), bool)
    before, routing = run(layer, params, x_BTD, everything)
    assert (float(jnp.sum(routing.dropped_B)) > 0) == isinstance(dispatch, Capacity)
    for seed in range(5):
        noise = np.random.default_rng(seed).standard_normal((B, T, D)) * 3
        later = jnp.arange(T)[None, :] >= 6
        is_changed = later | (jnp.arange(B)[:, None] != 1)
        changed = jnp.where(is_changed[..., None], noise, x_BTD).astype(jnp.float32)
        after, _ = run(layer, params, changed, everything)
        np.testing.assert_allclose(after[1, :6], before[1, :6], rtol=1e-5, atol=1e-6)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    # Each pair of them is compiled.
    num_slots=st.sampled_from([1, 3, T]),
    num_active=st.sampled_from([1, 2, E]),
)
def test_an_expert_takes_the_first_valid_tokens_that_chose_it(seed, num_slots, num_active) -> None:
    rng = np.random.default_rng(seed)
    experts_BTK = np.argsort(rng.random((B, T, E)), axis=-1)[..., :num_active].astype(np.int32)
    valid_BT = rng.random((B, T)) < 0.7
    gates_BTK = jnp.ones(experts_BTK.shape)
    choice = Choice(jnp.asarray(experts_BTK), gates_BTK, jnp.asarray(valid_BT))
    found = assign_slots(choice, E, num_slots)
    expected = np.full((B, T, num_active), E * num_slots)
    for row in range(B):
        taken = [0] * E
        for token in np.flatnonzero(valid_BT[row]):
            for k, expert in enumerate(experts_BTK[row, token]):
                if taken[expert] < num_slots:
                    expected[row, token, k] = expert * num_slots + taken[expert]
                    taken[expert] += 1
    np.testing.assert_array_equal(found, expected)


def test_dropped_choices_add_nothing_and_are_counted() -> None:
    """All tokens want expert 0 first and expert 1 second; each has places for 3 of 10."""
    config = replace(MOE, dispatch=Capacity(factor=0.6))
    layer, params, x_BTD, valid_BT = draw(config)
    assert config.dispatch.count_slots(T, E, K) == 3
    x_BTD = x_BTD.at[..., 0].set(1.0)
    kernel_DE = jnp.zeros((D, E)).at[0].set(jnp.array([3.0, 2.0, -3.0, -3.0]))
    params["router"] = {"kernel": kernel_DE}
    y_BTD, routing = run(layer, params, x_BTD, valid_BT)
    dropless = replace(config, dispatch=Dropless()).build(PLAIN.settings, "feed_forward")
    whole_BTD, _ = run(dropless, params, x_BTD, valid_BT)
    np.testing.assert_allclose(y_BTD[:2, :3], whole_BTD[:2, :3], rtol=1e-5, atol=1e-6)
    assert not y_BTD[:, 3:].any()
    np.testing.assert_array_equal(routing.load_BE, [[10, 10, 0, 0], [7, 7, 0, 0], [0] * 4])
    np.testing.assert_array_equal(routing.dropped_B, [14, 8, 0])
    # Two experts have all: 4 (1/2 P_0 + 1/2 P_1), with P_0 + P_1 near 1. No valid token: nothing.
    np.testing.assert_allclose(routing.balance_B, [2.0, 2.0, 0.0], rtol=1e-2)


@pytest.mark.parametrize(
    ("factor", "slots"), [(1.0, 128), (1.25, 160), (0.001, 1), (100.0, 512), (1.2, 154)]
)
def test_slots(factor, slots) -> None:
    assert Capacity(factor=factor).count_slots(512, 8, 2) == slots


def test_an_even_router_has_balance_loss_one() -> None:
    layer, params, x_BTD, _ = draw(MOE)
    params["router"] = {"kernel": jnp.zeros((D, E))}
    _, routing = run(layer, params, x_BTD, jnp.ones((B, T), bool))
    np.testing.assert_allclose(routing.balance_B, 1.0, rtol=1e-6)
    np.testing.assert_allclose(routing.z_loss_B, np.log(E) ** 2, rtol=1e-6)


cut = jax.jit(make_blocks, static_argnums=(1, 2))


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1, 47]),
    block_size=st.sampled_from([1, 6, 64]),
)
def test_blocks_hold_every_choice_once_and_one_expert_each(seed, size, block_size) -> None:
    rng = np.random.default_rng(seed)
    # Now and then one expert has nearly all.
    experts_A = np.where(rng.random(size) < rng.random(), rng.integers(0, E + 1, size), 1)
    blocks = cut(jnp.asarray(experts_A, jnp.int32), E, block_size)
    used = int(blocks.num_blocks)
    choices_MR = np.asarray(blocks.choices_MR)
    held = choices_MR[:used][choices_MR[:used] < size]
    np.testing.assert_array_equal(np.sort(held), np.flatnonzero(experts_A < E))
    assert (choices_MR[used:] == size).all()
    for choices_R, expert in zip(choices_MR[:used], blocks.experts_M, strict=False):
        assert (experts_A[choices_R[choices_R < size]] == int(expert)).all()
        assert (choices_R < size).any()


def test_a_loop_over_layers_and_pieces_of_the_batch_report_the_same() -> None:
    config = replace(PLAIN, feed_forward=replace(MOE, dispatch=Capacity(factor=0.7)))
    _, params = tiny_model.init(config)
    tokens_BT = tiny_model.random_tokens((4, 12))
    segments_BT = jnp.ones((4, 12), jnp.int32).at[1, 5:].set(0)

    @functools.partial(jax.jit, static_argnums=0)
    def routing(layers, tokens_BT, segments_BT):
        model = replace(config, layers=layers).build(tiny_model.VOCAB_SIZE)
        _, written = model.apply({"params": params}, tokens_BT, segments_BT, mutable=[ROUTING])
        return written[ROUTING]["rows"]

    unrolled = routing(Unrolled(), tokens_BT, segments_BT)
    scanned = routing(Scanned(), tokens_BT, segments_BT)
    np.testing.assert_array_equal(jnp.sum(unrolled.load_BLE, -1)[:, 0], [24, 10, 24, 24])
    assert jnp.all(jnp.sum(unrolled.dropped_BL, axis=0) > 0)
    halves = [routing(Unrolled(), tokens_BT[rows], segments_BT[rows]) for rows in HALVES]
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *halves)
    for other in (scanned, joined):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), unrolled, other
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_active": 9}, "num_active must be from 1 to num_experts=8, not 9"),
        ({"num_active": 1}, "use gates=SoftmaxGates"),
        ({"expert": MixtureOfExperts()}, "expert must be a feed-forward layer without experts"),
        ({"load_balance": -1.0}, "load_balance must not be negative"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        MixtureOfExperts(**settings)
