"""Answers of a packed batch: which ones are a pair, and means over their tokens."""

import jax.numpy as jnp
import numpy as np

from jaxgpt.finetuning.preference.answers import Answers, split_examples


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
