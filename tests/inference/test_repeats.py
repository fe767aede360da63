"""DRY and XTC against plain Python, written from their descriptions; rows do not meet."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import ConfigError
from jaxgpt.inference.repeats import DEFAULT_BREAKERS, LONGEST_MATCH, DryRows, penalize_repeats
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.sequence_breakers import SequenceBreakers, breakers_of
from jaxgpt.inference.top_choices import exclude_top_choices
from tests.evaluation.tiny_scoring import make_tokenizer

NUM_ROWS, PLACES, VOCAB_SIZE = 3, 70, 6


class Dry(NamedTuple):
    """A row and its settings."""

    text: list[int]
    multiplier: float
    base: float
    allowed_length: int
    last_n: int
    breakers: set[int]


ROWS = st.builds(
    Dry,
    text=st.lists(st.integers(0, 2), min_size=1, max_size=PLACES)
    | st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=PLACES),
    multiplier=st.sampled_from([0.0, 0.8, 3.0]),
    base=st.sampled_from([1.0, 1.75, 100.0]),
    allowed_length=st.integers(0, 5),
    last_n=st.sampled_from([1, 7, 2**31 - 1]),
    breakers=st.sets(st.integers(0, VOCAB_SIZE - 1), max_size=2),
)


def penalties(row: Dry) -> np.ndarray:
    """Return what each id loses: a longest match for each place at which the last token stands."""
    text = row.text[-row.last_n :]
    longest = [0] * VOCAB_SIZE
    for place in range(len(text) - 1):
        match = 0
        while (
            match < LONGEST_MATCH
            and match <= place
            and text[place - match] == text[-1 - match]
            and text[-1 - match] not in row.breakers
        ):
            match += 1
        following = text[place + 1]
        if following not in row.breakers:
            longest[following] = max(longest[following], match)
    return np.array(
        [
            min(row.multiplier * row.base ** (match - row.allowed_length), 1e30)
            if match and match >= row.allowed_length
            else 0.0
            for match in longest
        ]
    )


penalize = jax.jit(penalize_repeats)


def run(rows: list[Dry], scores_BV: np.ndarray) -> np.ndarray:
    tokens_BT = np.full((NUM_ROWS, PLACES), 1, np.int32)
    breakers_BV = np.zeros((NUM_ROWS, VOCAB_SIZE), bool)
    for number, row in enumerate(rows):
        tokens_BT[number, : len(row.text)] = row.text
        breakers_BV[number, list(row.breakers)] = True
    columns = zip(*(row[1:5] for row in rows), strict=True)
    kinds = (np.float32, np.float32, np.int32, np.int32)
    given = DryRows(*(np.array(each, kind) for each, kind in zip(columns, kinds, strict=True)))
    lengths_B = np.array([len(row.text) for row in rows], np.int32)
    return np.asarray(penalize(scores_BV, given, tokens_BT, breakers_BV, lengths_B))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROWS, min_size=NUM_ROWS, max_size=NUM_ROWS))
def test_repeated_sequences_cost_what_the_description_says(rows: list[Dry]) -> None:
    scores_BV = np.linspace(-3, 3, NUM_ROWS * VOCAB_SIZE, dtype=np.float32)
    scores_BV = scores_BV.reshape(NUM_ROWS, VOCAB_SIZE)
    found_BV = run(rows, scores_BV)
    for row, scores_V, found_V in zip(rows, scores_BV, found_BV, strict=True):
        np.testing.assert_allclose(found_V, scores_V - penalties(row), rtol=1e-4, atol=1e-5)
        if not row.multiplier:
            np.testing.assert_array_equal(found_V, scores_V)
    # A row alone, among rows that ask for nothing, gets the same to the last bit.
    off = Dry([0], 0.0, 1.0, 0, 1, set())
    alone_BV = run([rows[0], off, off], scores_BV)
    np.testing.assert_array_equal(alone_BV[0], found_BV[0])


def test_a_long_repetition_leaves_scores_finite() -> None:
    row = Dry([3] * PLACES, 100.0, 100.0, 0, 2**31 - 1, set())
    found_BV = run([row] * NUM_ROWS, np.zeros((NUM_ROWS, VOCAB_SIZE), np.float32))
    assert np.isfinite(found_BV).all()
    assert found_BV[0, 3] < -1e29


def left_out(shares_V: np.ndarray, threshold: float) -> set[int]:
    """Return the ids that XTC leaves out."""
    order = sorted(np.flatnonzero(shares_V > 0).tolist(), key=lambda id: (-shares_V[id], id))
    return set([id for id in order if shares_V[id] >= threshold][:-1])


exclude = jax.jit(exclude_top_choices)


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=VOCAB_SIZE, max_size=VOCAB_SIZE).filter(any),
    threshold=st.sampled_from([0.0, 0.07, 0.11, 0.31, 0.61]),
    seed=st.integers(0, 99),
)
def test_top_choices_are_excluded_as_the_description_says(
    counts: list[int], threshold: float, seed: int
) -> None:
    shares_V = np.array(counts) / sum(counts)
    with np.errstate(divide="ignore"):
        scores_V = np.log(np.array(counts)).astype(np.float32)
    probabilities_B = np.array([1.0, 0.0, 0.5], np.float32)
    keys_B = jax.random.split(jax.random.key(seed), NUM_ROWS)
    found_BV = np.asarray(
        exclude(np.tile(scores_V, (NUM_ROWS, 1)), probabilities_B, np.full(3, threshold), keys_B)
    )
    expected = scores_V.copy()
    expected[list(left_out(shares_V, threshold))] = -np.inf
    np.testing.assert_array_equal(found_BV[0], expected)
    np.testing.assert_array_equal(found_BV[1], scores_V)
    assert any(np.array_equal(found_BV[2], each) for each in (expected, scores_V))


def test_chance_has_the_given_probability() -> None:
    keys_B = jax.random.split(jax.random.key(0), 2000)
    scores_BV = jnp.zeros((2000, 2))
    found_BV = exclude(scores_BV, np.full(2000, 0.3), np.full(2000, 0.1), keys_B)
    # Four standard deviations.
    assert jnp.mean(jnp.any(jnp.isinf(found_BV), axis=-1)) == pytest.approx(0.3, abs=0.041)


def test_breakers_are_the_tokens_that_hold_them() -> None:
    tokenizer = make_tokenizer()
    breakers = SequenceBreakers(tokenizer)
    for text in (*DEFAULT_BREAKERS, "at"):
        ids = breakers.ids((text,))
        pieces = [tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size)]
        assert ids
        assert ids == tuple(id for id, piece in enumerate(pieces) if text.encode() in piece)
    # No token holds it: the last one stands for it.
    assert breakers.ids(("User:",)) == tuple(tokenizer.encode("User:")[-1:])
    assert breakers.ids(()) == ()
    # The vocabulary is decoded once for all answers.
    assert breakers_of(tokenizer) is breakers_of(tokenizer)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dry_multiplier": -1.0}, "dry_multiplier"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"dry_allowed_length": LONGEST_MATCH + 1}, "dry_allowed_length"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n"),
        ({"dry_sequence_breakers": ("a", "")}, "has an empty text"),
        ({"dry_sequence_breakers": ("a", "b\udfff")}, r"has 'b\\udfff', a text with a lone surr"),
        ({"xtc_probability": 1.1}, "xtc_probability"),
        ({"xtc_threshold": float("nan")}, "xtc_threshold"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**fields)  # type: ignore[arg-type]
