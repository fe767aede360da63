"""What is skipped, what is not, and that a skipped batch leaves no trace but its count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.batch import Batch
from jaxgpt.training.loss import LossSums
from jaxgpt.training.recovery import NoSkipping, Skips, SkipSpikes, all_finite
from jaxgpt.training.state import TrainState
from jaxgpt.training.step import make_train_step

GUARD = SkipSpikes(window=16, min_steps=8, max_in_a_row=3, max_in_window=5)


@pytest.fixture(scope="module")
def accept():
    return jax.jit(GUARD.accept)


def _feed(accept, values, memory=None):
    """Give (loss, norm) pairs to `accept`; return what was accepted, and the memory."""
    memory = GUARD.init() if memory is None else memory
    accepted = []
    for step, (loss, norm) in enumerate(values):
        good, memory, skips = accept(memory, jnp.int32(step), jnp.float32(loss), jnp.float32(norm))
        accepted.append(bool(good))
        assert int(skips.now) == (not good)
    return accepted, memory, skips


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_refused_from_the_first_step(accept, bad, place) -> None:
    pair = (bad, 1.0) if place == 0 else (1.0, bad)
    assert _feed(accept, [pair, (1.0, 1.0)])[0] == [False, True]


@pytest.mark.parametrize("place", [0, 1])
def test_a_spike_is_refused_once_enough_is_seen(accept, place) -> None:
    rng = np.random.default_rng(0)
    calm = [(2 + 0.05 * rng.normal(), 1 + 0.05 * rng.normal()) for _ in range(30)]
    spike = (100.0, 1.0) if place == 0 else (2.0, 50.0)
    assert _feed(accept, [*calm[:7], spike])[0][-1], "too early to judge"
    accepted, _, skips = _feed(accept, [*calm, spike, *calm[:4]])
    assert accepted == [True] * 30 + [False] + [True] * 4
    assert (skips.in_a_row, skips.in_window, skips.total) == (0, 1, 1)


@given(
    st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    st.floats(0, 1e4, width=32, allow_subnormal=False),
)
def test_equal_values_never_trip(accept, loss: float, norm: float) -> None:
    assert all(_feed(accept, [(loss, norm)] * 24)[0])


def test_a_refused_value_is_not_remembered(accept) -> None:
    rng = np.random.default_rng(1)
    calm = [(2 + 0.05 * rng.normal(), 1.0) for _ in range(20)]
    _, clean, _ = _feed(accept, calm)
    _, after, _ = _feed(accept, [*calm, (1e6, 1.0), (np.nan, np.nan)])
    for name in ("losses_W", "grad_norms_W", "accepted", "norms_seen"):
        np.testing.assert_array_equal(clean[name], after[name])


def test_a_lasting_rise_of_the_gradient_alone_becomes_usual() -> None:
    """As in a healthy run that was seen to end as diverged: norms of 1, then of 3 and more."""
    guard = SkipSpikes()
    accept, memory = jax.jit(guard.accept), guard.init()
    rng = np.random.default_rng(3)
    skipped, longest = 0, 0
    for step in range(300):
        norm = (1 if step < 140 else 4) * np.exp(0.1 * rng.normal())
        _, memory, skips = accept(
            memory, jnp.int32(step), jnp.float32(2 + 0.05 * rng.normal()), jnp.float32(norm)
        )
        assert guard.stop_reason(2.0, norm, Skips(*map(float, skips))) is None
        skipped, longest = int(skips.total), max(longest, int(skips.in_a_row))
    assert 0 < skipped == longest <= 5


def test_a_gradient_of_twice_the_mean_is_no_spike_however_small_the_spread(accept) -> None:
    rng = np.random.default_rng(8)
    calm = [(2 + 0.05 * rng.normal(), 1 + 0.01 * rng.normal()) for _ in range(30)]
    assert all(_feed(accept, [*calm, (2.0, 2.0), *calm])[0])
    assert not _feed(accept, [*calm, (2.0, 3.2)])[0][-1]


def test_a_lasting_rise_of_the_loss_does_not(accept) -> None:
    rng = np.random.default_rng(4)
    values = [(2 + 0.05 * rng.normal(), 1.0) for _ in range(20)]
    values += [(6 + 0.05 * rng.normal(), 1.0) for _ in range(10)]
    assert _feed(accept, values)[0] == [True] * 20 + [False] * 10


def _with_rare_document(height: float, place: int, period: int = 40, num_periods: int = 12):
    """Calm values, of which one in each period is as high as `height` means of them."""
    rng = np.random.default_rng(6)
    for step in range(period * num_periods):
        pair = [2 + 0.05 * rng.normal(), 1 + 0.05 * rng.normal()]
        if step % period == period - 1:
            pair[place] *= height * (1 + 0.05 * rng.normal())
        yield tuple(pair)


@pytest.mark.parametrize("place", [0, 1])
def test_a_rare_document_is_refused_once_and_then_learned(accept, place: int) -> None:
    accepted, _, skips = _feed(accept, _with_rare_document(4.0, place))
    assert accepted[39] is False
    assert accepted.count(False) == skips.total == 1


@pytest.mark.parametrize(("place", "height"), [(0, 50.0), (1, 50.0)])
def test_what_no_text_can_be_the_reason_of_is_refused_each_time(accept, place, height) -> None:
    accepted, _, _ = _feed(accept, _with_rare_document(height, place))
    assert accepted.count(False) == 12


def test_a_state_that_broke_is_refused_though_spikes_as_high_were_let_through(
    accept,
) -> None:
    values = [*_with_rare_document(3.0, 0), *[(2.0, 1.0)] * 4, *[(6.0, 1.0)] * 4]
    accepted, _, skips = _feed(accept, values)
    assert accepted[-4:] == [True, False, False, False]
    assert GUARD.stop_reason(6.0, 1.0, Skips(*map(float, skips))) is not None


def test_refusals_that_follow_each_other_permit_nothing(accept) -> None:
    rng = np.random.default_rng(7)
    calm = [(2 + 0.05 * rng.normal(), 1.0) for _ in range(20)]
    accepted, _, _ = _feed(accept, [*calm, (6.0, 1.0), (6.0, 1.0), *calm, (6.0, 1.0)])
    assert accepted.count(False) == 3


def test_what_is_let_through_does_not_become_usual(accept) -> None:
    values = list(_with_rare_document(3.0, 0))
    _, with_it, _ = _feed(accept, values)
    assert float(with_it["losses_W"].max()) < 2.5


def test_a_skip_says_which_limit_it_exceeded(accept) -> None:
    rng = np.random.default_rng(0)
    calm = [(2 + 0.05 * rng.normal(), 1 + 0.05 * rng.normal()) for _ in range(30)]
    _, _, early = _feed(accept, calm[:4])
    assert early.loss_limit == early.grad_norm_limit == np.inf
    _, _, skips = _feed(accept, [*calm, (9.0, 50.0)])
    skips = Skips(*map(float, skips))
    assert 2.1 < skips.loss_limit < 2.6
    assert 2.7 < skips.grad_norm_limit < 3.3
    assert skips.why(9.0, 1.0) == f"loss 9 exceeds its limit {skips.loss_limit:.4g}"
    assert skips.why(2.0, 50.0).startswith("gradient norm 50 exceeds its limit ")
    assert skips.why(float("nan"), 50.0).startswith("loss nan is not finite and gradient norm 50")


def test_only_a_start_that_was_refused_as_often_as_may_be_tells_of_another_level() -> None:
    guard = SkipSpikes(max_in_a_row=8)
    assert guard.is_level(Skips(now=1, in_a_row=8), num_steps=8)
    # The parameters of the start were refused before it, too.
    assert not guard.is_level(Skips(now=1, in_a_row=8), num_steps=1)
    # One more skip in the window ended it, not a level.
    assert not guard.is_level(Skips(now=1, in_a_row=1, in_window=32), num_steps=1)
    assert not guard.is_level(Skips(now=1, in_a_row=8), num_steps=20)
    assert not NoSkipping().is_level(Skips(), num_steps=8)


def test_old_skips_leave_the_window(accept) -> None:
    values = [(np.nan, 1.0)] * 2 + [(1.0, 1.0)] * 20
    assert _feed(accept, values[:18])[2].in_window == 0
    assert _feed(accept, values)[2].total == 2


def test_complaints_name_the_number(accept) -> None:
    assert GUARD.stop_reason(1.0, 1.0, Skips(1, 2, 4, 9)) is None
    assert "3 updates in a row" in str(GUARD.stop_reason(9.0, 1.0, Skips(1, 3, 3, 9)))
    assert "5 of the last 16" in str(GUARD.stop_reason(9.0, 1.0, Skips(1, 1, 5, 9)))
    assert NoSkipping().stop_reason(1.0, 1.0, Skips()) is None
    assert "gradient norm nan" in str(NoSkipping().stop_reason(1.0, float("nan"), Skips()))


def test_memory_survives_json_exactly_and_another_window_keeps_the_count(accept) -> None:
    rng = np.random.default_rng(2)
    values = [(rng.normal(), rng.random()) for _ in range(11)] + [(np.nan, 1.0)]
    _, memory, _ = _feed(accept, values)
    recalled = GUARD.state_from_json(GUARD.state_to_json(jax.device_get(memory)))
    assert recalled.keys() == memory.keys()
    for name in memory:
        np.testing.assert_array_equal(recalled[name], memory[name])
        assert recalled[name].dtype == memory[name].dtype
    again = GUARD.state_from_json(GUARD.state_to_json(jax.device_get(memory)), is_usual=False)
    fresh = {name: np.asarray(value) for name, value in GUARD.init().items()} | {"total": 1}
    for name in memory:
        np.testing.assert_array_equal(again[name], fresh[name])
    other = SkipSpikes(window=8).state_from_json(GUARD.state_to_json(jax.device_get(memory)))
    assert other["total"] == 1
    assert other["accepted"] == 0
    assert SkipSpikes().state_from_json({})["total"] == 0
    assert NoSkipping().state_from_json(GUARD.state_to_json(jax.device_get(memory))) == {}


def _bad_gradient(x: jax.Array) -> jax.Array:
    """0 with a gradient that is not a number."""
    return jnp.sqrt(jnp.sum(jnp.square(x)) * 0)


def _loss(params, batch, rng):
    """A line through points; the marks in `segment_ids_BT` say what is wrong with a batch."""
    mark = batch.segment_ids_BT[0, 0]
    error = params["w"] * batch.tokens_BT + params["b"] - batch.targets_BT
    loss = jnp.sum(jnp.square(error)) * jnp.where(mark == 50, 50.0, 1.0)
    loss = loss + jnp.where(mark == 1, jnp.nan, 0.0)
    objective = loss + jax.lax.cond(mark == 2, _bad_gradient, lambda x: 0.0 * x, params["w"])
    weight = jnp.float32(batch.tokens_BT.size)
    return LossSums(objective, loss, weight, weight)


def _batch(seed: int, mark: int = 0) -> Batch:
    x = np.random.default_rng(seed).normal(size=(2, 8)).astype(np.float32)
    y = 2 * x + 1 + np.random.default_rng(seed + 99).normal(size=x.shape).astype(np.float32)
    return Batch(x, y, np.full(x.shape, mark, np.int32), x, np.ones_like(x))


@pytest.fixture(scope="module")
def step():
    schedule = optax.linear_schedule(0.1, 0.01, 60)
    optimizer = optax.adamw(schedule)
    function = jax.jit(make_train_step(_loss, optimizer, 1, GUARD))
    params = {"w": jnp.float32(0), "b": jnp.float32(0)}
    start = TrainState(
        step=jnp.int32(0),
        trainable=params,
        frozen={},
        opt_state=optimizer.init(params),
        rng=jax.random.key(0),
        memory=GUARD.init(),
    )
    return function, start


@pytest.mark.parametrize("mark", [1, 2, 50])
def test_a_bad_batch_changes_nothing_but_the_counts(step, mark: int) -> None:
    """NaN loss, NaN gradient under a finite loss, x50 loss: as if the batch had not been."""
    function, state = step
    for seed in range(12):
        state, metrics = function(state, _batch(seed))
        assert metrics.skips.now == 0
    after, metrics = function(state, _batch(12, mark))
    assert metrics.skips.now == 1
    assert np.isfinite(metrics.loss) == (mark != 1)
    for old, new in zip(
        jax.tree.leaves((state.trainable, state.opt_state)),
        jax.tree.leaves((after.trainable, after.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)
    assert after.step == state.step + 1
    # From here on it is the run that never saw the batch.
    with_it, without = after, state
    for seed in range(20, 25):
        with_it, _ = function(with_it, _batch(seed))
        without, _ = function(without, _batch(seed))
    jax.tree.map(
        np.testing.assert_array_equal,
        (with_it.trainable, with_it.opt_state),
        (without.trainable, without.opt_state),
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_value_that_is_not_finite_is_found(bad: float) -> None:
    tree = {"a": jnp.ones((3, 4)), "b": [jnp.ones(5), jnp.arange(3)]}
    check = jax.jit(all_finite)
    assert check(tree)
    tree["b"][0] = tree["b"][0].at[3].set(bad)
    assert not check(tree)
    assert check({"count": jnp.arange(2)})
