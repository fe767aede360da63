"""Drawing tokens: every filter keeps exactly the set it promises, and draws follow the softmax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import ConfigError
from jaxgpt.inference import sampling
from jaxgpt.inference.sampling import SamplingConfig

NUM_IDS = 11
ALL_ALLOWED = np.ones(NUM_IDS, dtype=bool)


def scores(seed: int, num_rows: int = 3, num_columns: int = NUM_IDS) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0, 2, (num_rows, num_columns)), "float32")


def kept(filtered: jax.Array) -> np.ndarray:
    return np.isfinite(np.asarray(filtered))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e-30),
        ("top_k", 0),
        ("top_k", -3),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", math.inf),
    ],
)
def test_an_impossible_setting_is_refused_by_name_and_value(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{field} = {value}.*allowed"):
        SamplingConfig(**{field: value})


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 2, 7, 15]), rows=st.sampled_from([1, 4]))
def test_top_k_keeps_the_k_highest(seed: int, k: int, rows: int) -> None:
    logits = scores(seed, rows)
    kept_BV = kept(sampling.keep_top_k(logits, k))
    for row, kept_V in zip(np.asarray(logits), kept_BV, strict=True):
        assert set(np.flatnonzero(kept_V)) == set(np.argsort(-row)[:k])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.floats(0.01, 0.999), rows=st.sampled_from([1, 4]))
def test_top_p_keeps_the_smallest_set_that_reaches_p(seed: int, p: float, rows: int) -> None:
    logits = scores(seed, rows)
    kept_BV = kept(sampling.keep_top_p(logits, p))
    for row, kept_V in zip(np.asarray(logits, "float64"), kept_BV, strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        chosen = probabilities[kept_V]
        assert chosen.sum() >= p - 1e-6
        assert chosen.sum() - chosen.min() < p + 1e-6, "the least likely one was not needed"
        assert chosen.min() > probabilities[~kept_V].max(initial=0.0)


def test_top_p_stops_exactly_at_the_boundary_and_breaks_ties_by_id() -> None:
    logits = jnp.log(jnp.asarray([[0.25, 0.5, 0.25]]))
    assert kept(sampling.keep_top_p(logits, 0.5)).tolist() == [[False, True, False]]
    assert kept(sampling.keep_top_p(logits, 0.75)).tolist() == [[True, True, False]]
    assert kept(sampling.keep_top_p(logits, 0.76)).tolist() == [[True, True, True]]
    assert kept(sampling.keep_top_p(logits, 1e-50)).tolist() == [[False, True, False]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.floats(0.01, 1.0))
def test_min_p_keeps_a_share_of_the_likeliest(seed: int, p: float) -> None:
    logits = scores(seed)
    kept_BV = kept(sampling.keep_min_p(logits, p))
    shares = np.exp(np.asarray(logits, "float64"))
    shares /= shares.max(axis=-1, keepdims=True)
    clear = np.abs(shares - p) > 1e-5
    assert (kept_BV == (shares >= p))[clear].all()
    assert kept_BV.any(axis=-1).all()


def test_the_repetition_penalty_lowers_seen_scores_of_either_sign_and_no_other() -> None:
    logits = jnp.asarray([[2.0, -2.0, 2.0, -2.0]])
    seen = jnp.asarray([[True, True, False, False]])
    penalized = sampling.penalize_repetition(logits, seen, 2.0)
    assert penalized.tolist() == [[1.0, -4.0, 2.0, -2.0]]


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(temperature=0.0),
        SamplingConfig(),
        SamplingConfig(top_k=4, top_p=0.9, min_p=0.01, temperature=2.0),
    ],
    ids=["greedy", "plain", "filtered"],
)
def test_padding_columns_and_forbidden_ids_are_never_drawn(config: SamplingConfig) -> None:
    # The forbidden ids and the padding hold the highest scores by far.
    logits = jnp.full((64, 8), 0.0).at[:, jnp.asarray([0, 3, 6, 7])].set(50.0)
    allowed = sampling.allowed_ids(8, vocab_size=6, forbidden=[0, 3])
    keys = sampling.row_keys(0, jnp.arange(64))
    drawn = sampling.sample(logits, config, allowed, keys, jnp.zeros(64, int))
    assert set(drawn.tolist()) <= {1, 2, 4, 5}


def test_temperature_zero_takes_the_highest_score() -> None:
    logits = scores(0, num_rows=16)
    config = SamplingConfig(temperature=0.0, top_k=3, top_p=0.5, min_p=0.3)
    keys = sampling.row_keys(0, jnp.arange(16))
    drawn = sampling.sample(logits, config, ALL_ALLOWED, keys, jnp.zeros(16, int))
    assert drawn.tolist() == np.argmax(np.asarray(logits), axis=-1).tolist()


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    config = SamplingConfig(temperature=1e-6)
    filtered = sampling.filter_logits(scores(1) * 1e34, config, ALL_ALLOWED)
    assert not np.isnan(np.asarray(filtered)).any()
    assert np.asarray(jax.nn.softmax(filtered)).max(axis=-1).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(temperature=0.7),
        SamplingConfig(temperature=1.3, top_k=6),
        SamplingConfig(top_p=0.8),
        SamplingConfig(min_p=0.1, repetition_penalty=1.5),
    ],
    ids=["temperature", "top_k", "top_p", "min_p"],
)
def test_draws_follow_the_softmax_of_the_filtered_scores(config: SamplingConfig) -> None:
    num_draws = 20_000
    logits_V = np.asarray(scores(5, 1), "float64")[0] / 2
    seen_V = np.arange(NUM_IDS) % 2 == 0
    expected = _reference_distribution(logits_V, config, seen_V)
    drawn = sampling.sample(
        jnp.broadcast_to(jnp.asarray(logits_V, "float32"), (num_draws, NUM_IDS)),
        config,
        ALL_ALLOWED,
        sampling.row_keys(7, jnp.arange(num_draws)),
        jnp.full(num_draws, 3),
        jnp.broadcast_to(seen_V, (num_draws, NUM_IDS)),
    )
    counts = np.bincount(np.asarray(drawn), minlength=NUM_IDS)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    differences = (counts - num_draws * expected)[possible]
    chi_square = (differences**2 / (num_draws * expected)[possible]).sum()
    # Ten degrees of freedom at most: 0.1% of fair draws exceed 29.6.
    assert chi_square < 29.6


def _reference_distribution(logits_V, config: SamplingConfig, seen_V) -> np.ndarray:
    """The same distribution by plain loops over sorted lists, in float64."""
    scores_V = [
        (s / config.repetition_penalty if s > 0 else s * config.repetition_penalty) if seen else s
        for s, seen in zip(logits_V, seen_V, strict=True)
    ]
    weights = np.exp(np.asarray(scores_V) / config.temperature)
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    if config.top_k is not None:
        weights[order[config.top_k :]] = 0
    total, mass = weights.sum(), 0.0
    for i in order:
        if mass >= config.top_p:
            weights[i] = 0
        mass += weights[i] / total
    weights[weights < config.min_p * weights.max()] = 0
    return weights / weights.sum()


def test_a_draw_depends_on_seed_row_and_position_only() -> None:
    config = SamplingConfig()
    logits = jnp.zeros((6, 1000))
    allowed = np.ones(1000, dtype=bool)

    def draw(seed: int, rows: list[int], position: int) -> list[int]:
        keys = sampling.row_keys(seed, jnp.asarray(rows))
        positions = jnp.full(len(rows), position)
        return sampling.sample(logits[: len(rows)], config, allowed, keys, positions).tolist()

    together = draw(0, [0, 1, 2, 3, 4, 5], 9)
    assert len(set(together)) > 1
    assert draw(0, [4, 1], 9) == [together[4], together[1]]
    assert draw(0, [3], 9) == [together[3]]
    assert draw(1, [0, 1, 2, 3, 4, 5], 9) != together
    assert draw(0, [0, 1, 2, 3, 4, 5], 10) != together


def test_scores_that_are_not_finite_are_reported_for_their_row_alone() -> None:
    logits = scores(2).at[1, 4].set(jnp.nan)
    keys = sampling.row_keys(0, jnp.arange(3))
    for config in (SamplingConfig(), SamplingConfig(temperature=0.0)):
        drawn = sampling.sample(logits, config, ALL_ALLOWED, keys, jnp.zeros(3, int)).tolist()
        assert drawn[1] == -1
        assert min(drawn[0], drawn[2]) >= 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    config=st.builds(
        SamplingConfig,
        temperature=st.sampled_from([0.0, 1e-6, 0.5, 1.0, 10.0]),
        top_k=st.sampled_from([None, 1, 3, 100]),
        top_p=st.sampled_from([1e-9, 0.3, 0.999999, 1.0]),
        min_p=st.sampled_from([0.0, 0.2, 1.0]),
        repetition_penalty=st.sampled_from([0.5, 1.0, 3.0]),
    ),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_any_setting_leaves_something_to_draw(
    seed: int, config: SamplingConfig, scale: float
) -> None:
    logits = scores(seed) * scale
    seen = scores(seed + 1) > 0
    filtered = np.asarray(sampling.filter_logits(logits, config, ALL_ALLOWED, seen))
    assert not np.isnan(filtered).any()
    assert np.isfinite(filtered).any(axis=-1).all()
    keys = sampling.row_keys(seed, jnp.arange(3))
    drawn = sampling.sample(logits, config, ALL_ALLOWED, keys, jnp.zeros(3, int), seen)
    assert np.isfinite(filtered[np.arange(3), np.asarray(drawn)]).all()


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(temperature=0.7),
        SamplingConfig(top_k=4),
        SamplingConfig(top_p=0.85, temperature=1.5),
        SamplingConfig(min_p=0.07),
        SamplingConfig(repetition_penalty=1.4),
        SamplingConfig(temperature=0.8, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
    ],
)
def test_the_distribution_is_that_of_transformers(config: SamplingConfig) -> None:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    logits = scores(3, num_rows=5, num_columns=40)
    ids = np.random.default_rng(0).integers(0, 40, (5, 12))
    seen = np.zeros((5, 40), dtype=bool)
    np.put_along_axis(seen, ids, True, axis=-1)
    ours = jax.nn.softmax(
        sampling.filter_logits(logits, config, np.ones(40, dtype=bool), jnp.asarray(seen))
    )
    theirs = torch.tensor(np.asarray(logits))
    chain = [
        processors.RepetitionPenaltyLogitsProcessor(config.repetition_penalty),
        processors.TemperatureLogitsWarper(config.temperature),
        processors.TopKLogitsWarper(config.top_k or 40),
        processors.TopPLogitsWarper(config.top_p),
        processors.MinPLogitsWarper(config.min_p),
    ]
    for processor in chain:
        theirs = processor(torch.tensor(ids), theirs)
    np.testing.assert_allclose(np.asarray(ours), torch.softmax(theirs, -1).numpy(), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_likeliest_is_the_first_of_the_highest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([-np.inf, -1.0, 0.0, -0.0, 2.0], (2, 3, NUM_IDS)).astype("float32")
    np.testing.assert_array_equal(sampling.likeliest(jnp.asarray(values)), values.argmax(-1))


def test_a_draw_is_that_of_jax() -> None:
    keys_B, logits_BV = sampling.row_keys(4, jnp.arange(200)), scores(1, 200)
    expected_B = jax.vmap(jax.random.categorical)(keys_B, logits_BV)
    np.testing.assert_array_equal(sampling.draw(logits_BV, keys_B), expected_B)
