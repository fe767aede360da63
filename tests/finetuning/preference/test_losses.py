"""Losses of preferences: equal to float64 references in NumPy, written from the papers."""

import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.finetuning.preference.answers import Answers
from jaxgpt.finetuning.preference.dpo import Dpo
from jaxgpt.finetuning.preference.ipo import Ipo
from jaxgpt.finetuning.preference.kto import Kto, divergence
from jaxgpt.finetuning.preference.orpo import Orpo

NUM_PAIRS = 16


def _pairs(seed: int) -> dict[str, np.ndarray]:
    """Log-probabilities of pairs of answers with 1 to 500 tokens, float64."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 500, (2, NUM_PAIRS)).astype(np.float64)
    reference = -lengths * rng.uniform(0.05, 8.0, (2, NUM_PAIRS))
    policy = np.minimum(reference + rng.normal(0, 5, (2, NUM_PAIRS)), -1e-3)
    return {"policy": policy, "reference": reference, "lengths": lengths}


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _dpo(
    policy: Any, reference: Any, lengths: Any, beta: float = 0.1, smoothing: float = 0.0
) -> Any:
    """Equation 7 of arXiv:2305.18290; with smoothing, the mean under wrong labels."""
    (w, ref_w), (l, ref_l) = zip(policy, reference, strict=True)
    probability = _sigmoid(beta * (w - ref_w) - beta * (l - ref_l))
    return -(1 - smoothing) * np.log(probability) - smoothing * np.log(1 - probability)


def _dpo_of_means(policy: Any, reference: Any, lengths: Any) -> Any:
    """The length-normalised form of arXiv:2411.15124: beta / |y| in place of beta."""
    return _dpo(policy / lengths, reference / lengths, lengths, beta=5.0)


def _ipo(policy: Any, reference: Any, lengths: Any, beta: float = 0.1) -> Any:
    """Equation 17 of arXiv:2310.12036 with means over tokens."""
    w, l = (policy - reference) / lengths
    return (w - l - 1 / (2 * beta)) ** 2


def _ipo_of_sums(policy: Any, reference: Any, lengths: Any) -> Any:
    return _ipo(policy, reference, np.ones_like(lengths), beta=0.2)


def _orpo(policy: Any, reference: Any, lengths: Any, weight: float = 0.1) -> Any:
    """Equations 3 to 7 of arXiv:2403.07691."""
    w, l = np.exp(policy / lengths)
    odds_ratio = (w / (1 - w)) / (l / (1 - l))
    return -np.log(w) - weight * np.log(_sigmoid(np.log(odds_ratio)))


DESIRABLE = np.arange(NUM_PAIRS) % 3 > 0
Z0 = 0.7


def _kto(policy: Any, reference: Any, lengths: Any) -> Any:
    """Equation 8 of arXiv:2402.01306 of the first answers; lambda_D = 1.5, lambda_U = 0.5."""
    reward = policy[0] - reference[0]
    value = np.where(
        DESIRABLE, 1.5 * _sigmoid(0.1 * (reward - Z0)), 0.5 * _sigmoid(0.1 * (Z0 - reward))
    )
    return np.where(DESIRABLE, 1.5, 0.5) - value


KTO = Kto(beta=0.1, desirable_weight=1.5, undesirable_weight=0.5)


def _our_kto(chosen: Answers, rejected: Answers) -> jax.Array:
    return KTO.losses(chosen, jnp.asarray(DESIRABLE), jnp.asarray(Z0))


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "dpo": (Dpo(beta=0.1).losses, _dpo),
    "smoothed dpo": (
        Dpo(beta=0.3, label_smoothing=0.1).losses,
        functools.partial(_dpo, beta=0.3, smoothing=0.1),
    ),
    "dpo of means": (Dpo(beta=5.0, per_token=True).losses, _dpo_of_means),
    "ipo": (Ipo(beta=0.1).losses, _ipo),
    "ipo of sums": (Ipo(beta=0.2, per_token=False).losses, _ipo_of_sums),
    "orpo": (Orpo(weight=0.1).losses, _orpo),
    "kto": (_our_kto, _kto),
}


def _answers(policy: Any, pairs: dict[str, np.ndarray]) -> tuple[Answers, Answers]:
    reference, lengths = (
        jnp.asarray(pairs[name], jnp.float32) for name in ("reference", "lengths")
    )
    first, second = (Answers(policy[i], reference[i], lengths[i]) for i in range(2))
    return first, second


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_papers(name: str) -> None:
    ours, theirs = CASES[name]
    pairs = _pairs(0)

    def total(policy: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = ours(*_answers(policy, pairs))
        return jnp.sum(found), found

    policy = jnp.asarray(pairs["policy"], jnp.float32)
    # The references get what the losses get: numbers rounded to float32.
    pairs = {key: np.asarray(value, np.float32).astype(np.float64) for key, value in pairs.items()}
    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(policy)
    np.testing.assert_allclose(found, theirs(**pairs), rtol=2e-5, atol=2e-6)

    def shifted(place: tuple[int, int], step: float) -> Any:
        moved = pairs["policy"].copy()
        moved[place] += step
        return theirs(**(pairs | {"policy": moved}))[place[1]]

    expected = np.zeros((2, NUM_PAIRS))
    for place in np.ndindex(2, NUM_PAIRS):
        step = 1e-5 * max(1.0, abs(float(pairs["policy"][place])))
        expected[place] = (shifted(place, step) - shifted(place, -step)) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=1e-6)


def test_a_policy_that_is_its_reference_has_no_preference() -> None:
    pairs = _pairs(1)
    answers = _answers(jnp.asarray(pairs["reference"], jnp.float32), pairs)
    np.testing.assert_allclose(Dpo(beta=0.1).losses(*answers), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(Ipo(beta=0.1).losses(*answers), 25.0, rtol=1e-6)


@jax.jit
@jax.value_and_grad
def _all_losses(policy: jax.Array, length: jax.Array) -> jax.Array:
    nothing = jnp.float32(0)
    chosen, rejected = (Answers(policy[i], nothing, length) for i in range(2))
    pair = Orpo().losses(chosen, rejected) + Dpo().losses(chosen, rejected)
    return pair + Kto().losses(chosen, jnp.float32(1), nothing)


@hypothesis.given(
    chosen=st.floats(-1e5, 0, width=32),
    rejected=st.floats(-1e5, 0, width=32),
    length=st.integers(1, 500),
)
def test_no_log_probability_makes_a_loss_or_gradient_infinite(
    chosen: float, rejected: float, length: int
) -> None:
    policy = np.array([chosen, rejected], np.float32)
    value, gradient = _all_losses(policy, np.float32(length))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_divergence_is_the_mean_of_a_row_and_never_negative() -> None:
    policy = jnp.array([[1.0, 3.0, 99.0], [-5.0, 1.0, 99.0], [99.0, 99.0, 99.0]])
    exists = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    mismatched = Answers(policy, jnp.zeros((3, 3)), jnp.ones((3, 3)))
    np.testing.assert_allclose(divergence(mismatched, exists), [[2.0], [0.0], [0.0]])
