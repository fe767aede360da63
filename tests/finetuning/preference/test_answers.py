"""Answers of a packed batch: sums over the tokens of each sequence, and which ones are a pair."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.finetuning.preference.answers import Answers, sequence_sums, split_examples

ROWS, LENGTH, SEGMENTS = 3, 12, 6


@hypothesis.given(
    st.lists(st.lists(st.integers(1, 4), max_size=SEGMENTS), min_size=ROWS, max_size=ROWS)
)
def test_sums_are_those_of_each_sequence(lengths: list[list[int]]) -> None:
    ids_BT, expected_BS = np.zeros((ROWS, LENGTH), np.int32), np.zeros((ROWS, SEGMENTS))
    values_BT = np.random.default_rng(0).normal(size=(ROWS, LENGTH)).astype(np.float32)
    for row, row_lengths in enumerate(lengths):
        start = 0
        for index, length in enumerate(row_lengths):
            stop = min(start + length, LENGTH)
            ids_BT[row, start:stop] = index + 1
            expected_BS[row, index] = values_BT[row, start:stop].sum(dtype=np.float64)
            start = stop
    found = sequence_sums(jnp.asarray(values_BT), jnp.asarray(ids_BT), SEGMENTS)
    np.testing.assert_allclose(found, expected_BS, atol=1e-6)


def test_padding_has_no_gradient() -> None:
    ids_BT = jnp.array([[1, 1, 2, 0]])
    weights_S = jnp.array([2.0, 3.0])
    gradient = jax.grad(lambda values: jnp.sum(sequence_sums(values, ids_BT, 2) * weights_S))
    np.testing.assert_array_equal(gradient(jnp.ones((1, 4))), [[2.0, 2.0, 3.0, 0.0]])


def test_adjacent_sequences_are_an_example_if_both_are_there() -> None:
    policy_BS = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    tokens_BS = jnp.array([[5.0, 6.0, 7.0, 0.0]])
    first, second, exists_BP = split_examples(Answers(policy_BS, 0 * policy_BS, tokens_BS))
    np.testing.assert_array_equal(first.policy, [[1.0, 3.0]])
    np.testing.assert_array_equal(second.policy, [[2.0, 4.0]])
    np.testing.assert_array_equal(exists_BP, [[1.0, 0.0]])


def test_means_over_tokens_are_finite_where_there_are_none() -> None:
    answers = Answers(jnp.array([-6.0, 0.0]), jnp.array([-3.0, 0.0]), jnp.array([3.0, 0.0]))
    np.testing.assert_array_equal(answers.per_token().policy, [-2.0, 0.0])
    np.testing.assert_array_equal(answers.per_token().log_ratios, [-1.0, 0.0])
