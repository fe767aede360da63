"""Sums, values and hidden states of the sequences of packed rows."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.finetuning.segments import last_states, mean_states, sequence_sums, sequence_values

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


def test_values_and_states_are_those_of_each_sequence() -> None:
    ids_BT = jnp.array([[1, 1, 1, 2, 3, 3, 0]])
    positions_BT = jnp.array([[0, 1, 2, 0, 0, 1, 0]])
    values_BT = jnp.array([[5.0, 5.0, 5.0, 0.0, 7.0, 7.0, 9.0]])
    found = sequence_values(values_BT, ids_BT, positions_BT, 4)
    np.testing.assert_array_equal(found, [[5.0, 0.0, 7.0, 0.0]])
    x_BTD = jnp.arange(14.0).reshape(1, 7, 2)
    last_BSD = last_states(x_BTD, ids_BT, 3)
    np.testing.assert_array_equal(last_BSD, [[[4.0, 5.0], [6.0, 7.0], [10.0, 11.0]]])
    mean_BSD = mean_states(x_BTD, ids_BT, 4)
    np.testing.assert_allclose(mean_BSD, [[[2.0, 3.0], [6.0, 7.0], [9.0, 10.0], [0.0, 0.0]]])
