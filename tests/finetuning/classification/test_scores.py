"""Scores of classes: equal to scikit-learn's, with intervals that are a bootstrap over texts."""

import numpy as np
import pytest

from jaxgpt.finetuning.classification.scores import score_label_sets, score_single_labels


def _confusion(actual: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    confusion_CC = np.zeros((num_classes, num_classes))
    np.add.at(confusion_CC, (actual, predicted), 1)
    return confusion_CC


def _f1(actual: np.ndarray, predicted: np.ndarray) -> float:
    right = np.sum(actual & predicted)
    precision, recall = right / max(predicted.sum(), 1), right / max(actual.sum(), 1)
    return 2 * precision * recall / (precision + recall) if right else 0.0


def test_single_labels() -> None:
    rng = np.random.default_rng(0)
    actual = rng.choice(4, 300, p=[0.6, 0.2, 0.2, 0])
    predicted = np.where(rng.random(300) < 0.7, actual, rng.choice(3, 300))
    scores = score_single_labels(_confusion(actual, predicted, 4))
    assert scores.accuracy.value == pytest.approx(np.mean(actual == predicted))
    each = [_f1(actual == c, predicted == c) for c in range(3)]
    assert scores.macro_f1.value == pytest.approx(np.mean(each))
    assert scores.majority_accuracy == pytest.approx(np.mean(actual == 0))
    assert scores.majority_macro_f1 == pytest.approx(_f1(actual == 0, actual < 4) / 3)
    # A bootstrap over texts, another way.
    draws = [np.mean((actual == predicted)[rng.integers(0, 300, 300)]) for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert scores.accuracy.low == pytest.approx(low, abs=0.01)
    assert scores.accuracy.high == pytest.approx(high, abs=0.01)
    assert scores.macro_f1.low < scores.macro_f1.value < scores.macro_f1.high


def test_label_sets() -> None:
    rng = np.random.default_rng(0)
    actual = rng.random((300, 3)) < [0.7, 0.2, 0.1]
    predicted = actual ^ (rng.random((300, 3)) < 0.2)
    counts = np.stack([_confusion(actual[:, c] * 1, predicted[:, c] * 1, 2) for c in range(3)])
    scores = score_label_sets(counts)
    assert scores.accuracy.value == pytest.approx(np.mean(actual == predicted))
    each = [_f1(actual[:, c], predicted[:, c]) for c in range(3)]
    assert scores.macro_f1.value == pytest.approx(np.mean(each))
    assert scores.majority_accuracy == pytest.approx(
        np.mean(actual == np.array([True, False, False]))
    )
    assert scores.macro_f1.low < scores.macro_f1.value < scores.macro_f1.high


def test_scikit_learn_counts_the_same() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    actual, predicted = rng.choice(5, (2, 200))
    scores = score_single_labels(_confusion(actual, predicted, 7))
    expected = metrics.f1_score(actual, predicted, average="macro")
    assert scores.macro_f1.value == pytest.approx(expected)


def test_a_perfect_answer_scores_one() -> None:
    scores = score_single_labels(np.diag([3, 2, 1]))
    assert scores.accuracy.value == scores.macro_f1.value == 1
    assert scores.accuracy.low < 0.7  # Six texts prove little.
    assert scores.majority_accuracy == 0.5
