"""A step of GRPO and its variants: equal to float64 references in NumPy, written from the papers.

The references compute one loss per answer, in loops; derivatives are central differences.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.finetuning.reinforcement.checking import Checked, Lesson, fill
from jaxgpt.finetuning.reinforcement.dapo import Dapo
from jaxgpt.finetuning.reinforcement.dr_grpo import DrGrpo
from jaxgpt.finetuning.reinforcement.grpo import Grpo
from jaxgpt.finetuning.reinforcement.gspo import Gspo
from jaxgpt.finetuning.reinforcement.prompts import DRAWN_LOG_PROBABILITIES, Prompts
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.inference.whole_answers import Answers

MOST, GROUP, PLACES, PROMPT = 10, 4, 16, 3
# Two groups with variance, and two without.
REWARDS = np.array([[1, 0, 0, 1], [0, 1, 0.25, 0], [0, 0, 0, 0], [1, 1, 1, 1]], float)
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, MOST + 1, REWARDS.shape)
OLD = [[-RNG.uniform(0.05, 3, n) for n in row] for row in LENGTHS]
# Far enough from the old ones that both limits of each variant are passed.
NEW = [[old + RNG.normal(0, 0.3, len(old)) for old in row] for row in OLD]

Values = list[list[np.ndarray]]


def _clipped(ratio: np.ndarray, advantage: float, low: float, high: float) -> np.ndarray:
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)


def _normalised(rewards: np.ndarray) -> np.ndarray:
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)


def _grpo(new: Values) -> float:
    """Equation 3 of arXiv:2402.03300 without the divergence, and the mean over all tokens."""
    total = 0.0
    for group, rewards in enumerate(REWARDS):
        advantages = _normalised(rewards)
        for i in range(GROUP):
            ratio = np.exp(new[group][i] - OLD[group][i])
            total += _clipped(ratio, advantages[i], 0.2, 0.2).sum()
    return -total / LENGTHS.sum()


def _dr_grpo(new: Values) -> float:
    """Section 3 of arXiv:2503.20783."""
    total = 0.0
    for group, rewards in enumerate(REWARDS):
        for i in range(GROUP):
            ratio = np.exp(new[group][i] - OLD[group][i])
            total += _clipped(ratio, rewards[i] - rewards.mean(), 0.2, 0.2).sum() / MOST
    return -total / REWARDS.size


def _dapo(new: Values) -> float:
    """Equations 8, 11, 12 and 13 of arXiv:2503.14476."""
    total, num_tokens, margin = 0.0, 0, 0.2 * MOST
    for group, rewards in enumerate(REWARDS):
        if rewards.min() == rewards.max():
            continue
        shaped = rewards.copy()
        for i, length in enumerate(LENGTHS[group]):
            if length > MOST - margin:
                shaped[i] += (MOST - margin - length) / margin
        advantages = _normalised(shaped)
        for i in range(GROUP):
            ratio = np.exp(new[group][i] - OLD[group][i])
            total += _clipped(ratio, advantages[i], 0.2, 0.28).sum()
            num_tokens += len(ratio)
    return -total / num_tokens


def _gspo(new: Values) -> float:
    """Equations 5 to 7 of arXiv:2507.18071."""
    total = 0.0
    for group, rewards in enumerate(REWARDS):
        advantages = _normalised(rewards)
        for i in range(GROUP):
            ratio = np.exp((new[group][i] - OLD[group][i]).mean())
            total += _clipped(ratio, advantages[i], 0.03, 0.04)
    return -total / REWARDS.size


SETTINGS = {"answers_per_prompt": GROUP, "max_answer_tokens": MOST}
VARIANTS: list[tuple[Grpo, Callable[[Values], float]]] = [
    (Grpo(**SETTINGS), _grpo),
    (DrGrpo(**SETTINGS), _dr_grpo),
    (Dapo(**SETTINGS), _dapo),
    (Gspo(clip_low=0.03, clip_high=0.04, **SETTINGS), _gspo),
]


def _batch(objective: Grpo) -> tuple[Batch, np.ndarray]:
    """Return the batch that a step learns from, and where log-probabilities of answers are."""
    lengths_B = LENGTHS.ravel()
    answers = Answers(
        ids_BN=np.ones((len(lengths_B), MOST), np.int32),
        log_probabilities_BN=np.stack(
            [np.pad(old, (0, MOST - len(old))) for row in OLD for old in row]
        ),
        lengths_B=lengths_B,
        ended_B=np.ones(len(lengths_B), bool),
    )
    examples = TokenizedExamples(
        np.ones(PROMPT + 1, np.int32), np.eye(PROMPT + 1)[-1], np.array([0, PROMPT + 1])
    )
    prompts = Prompts(examples, PLACES).batch([0] * len(lengths_B), range(len(lengths_B)))
    checked = Checked(REWARDS.ravel(), lengths_B, answers.ended_B)
    lesson, _ = objective.learn(checked)
    everything = Lesson(lesson.advantages_B, np.ones(len(lengths_B)))
    is_answer_BT = fill(prompts, answers, everything).loss_weights_BT > 0
    assert (is_answer_BT.sum(axis=1) == lengths_B).all()
    return fill(prompts, answers, lesson), is_answer_BT


@pytest.mark.parametrize(("objective", "reference"), VARIANTS)
def test_loss_and_gradient(objective: Grpo, reference: Callable[[Values], float]) -> None:
    batch, is_answer_BT = _batch(objective)
    new_BT = np.zeros(is_answer_BT.shape, np.float32)
    new_BT[is_answer_BT] = np.concatenate([new for row in NEW for new in row])

    def mean(new_BT: jax.Array) -> jax.Array:
        sums = objective.sums(new_BT, batch, None)
        return sums.objective / sums.weight

    loss, gradient_BT = jax.value_and_grad(mean)(jnp.asarray(new_BT))
    assert float(loss) == pytest.approx(reference(NEW), abs=1e-6)
    expected = []
    for group, i in np.ndindex(*LENGTHS.shape):
        for t in range(LENGTHS[group, i]):
            ends = []
            for shift in (-1e-6, 1e-6):
                moved = [[each.copy() for each in row] for row in NEW]
                moved[group][i][t] += shift
                ends.append(reference(moved))
            expected.append((ends[1] - ends[0]) / 2e-6)
    np.testing.assert_allclose(np.asarray(gradient_BT)[is_answer_BT], expected, atol=1e-6)
    assert not np.asarray(gradient_BT)[~is_answer_BT].any()
    sums = objective.sums(jnp.asarray(new_BT), batch, None)
    assert sums.figures is not None
    figures = {name: float(total / sums.weight) for name, total in sums.figures.items()}
    assert 0 < figures["clipped"] < 1
    assert 0.1 < figures["drift"] < figures["drift_largest"]


def test_figures_of_a_step() -> None:
    ended_B = np.arange(REWARDS.size) % 4 > 0
    _, figures = Grpo(**SETTINGS).learn(Checked(REWARDS.ravel(), LENGTHS.ravel(), ended_B))
    assert figures == {
        "reward": REWARDS.mean(),
        "groups_without_variance": 0.5,
        "truncated": 0.25,
        "answer_tokens": LENGTHS.mean(),
    }


def test_without_a_group_to_learn_from_the_loss_is_zero() -> None:
    objective = Dapo(**SETTINGS)
    flat = Checked(np.ones(2 * GROUP), np.full(2 * GROUP, 3), np.ones(2 * GROUP, bool))
    assert not objective.learn(flat)[0].weights_B.any()
    assert not Grpo(**SETTINGS).learn(flat)[0].advantages_B.any()


def test_what_was_drawn_comes_with_the_batch() -> None:
    batch, is_answer_BT = _batch(Grpo(**SETTINGS))
    assert batch.extras is not None
    drawn_BT = batch.extras[DRAWN_LOG_PROBABILITIES]
    np.testing.assert_allclose(
        drawn_BT[is_answer_BT], np.concatenate([old for row in OLD for old in row]), rtol=1e-6
    )
