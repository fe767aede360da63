"""Accuracy and macro-F1 from counts of classes, with intervals, next to those of the majority.

For a class with TP right ones, FP that were taken for it and FN that were missed

    F1 = 2 TP / (2 TP + FP + FN)

and macro-F1 is the mean over the classes that are there or were predicted, as scikit-learn's
`f1_score(average="macro")` has it. Intervals are 95% ones: Wilson's of the accuracy of single
labels, otherwise those of a bootstrap over texts. The counts of texts that are drawn with
replacement are multinomial, and it is the counts that are drawn.

Axes: C classes, R draws.
"""

from typing import NamedTuple

import numpy as np

from jaxgpt.evaluation.statistics import proportion_interval

_NUM_DRAWS = 1000


class Score(NamedTuple):
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


class ClassScores(NamedTuple):
    """Scores of predicted classes.

    Attributes:
        accuracy: share of the decisions that are right: one per text, or one per text and class
            where a text may have several classes.
        macro_f1: mean of the classes' F1.
        majority_accuracy: accuracy of the decisions that are most frequent in the same texts.
        majority_macro_f1: macro-F1 of those.
    """

    accuracy: Score
    macro_f1: Score
    majority_accuracy: float
    majority_macro_f1: float


def score_single_labels(confusion_CC: np.ndarray, seed: int = 0) -> ClassScores:
    """Return the scores of texts with one class each.

    Args:
        confusion_CC: numbers of texts by (actual class, predicted class).
        seed: of the draws.
    """
    confusion_CC = np.rint(confusion_CC).astype(np.int64)
    num_texts = int(confusion_CC.sum())
    shares = confusion_CC.ravel() / num_texts
    draws = np.random.default_rng(seed).multinomial(num_texts, shares, _NUM_DRAWS)
    draws_RCC = draws.reshape(-1, *confusion_CC.shape)
    majority_CC = np.zeros_like(confusion_CC)
    majority_CC[:, confusion_CC.sum(1).argmax()] = confusion_CC.sum(1)
    return ClassScores(
        accuracy=_proportion(float(_accuracy(confusion_CC)), num_texts),
        macro_f1=_with_interval(_macro_f1(confusion_CC), _macro_f1(draws_RCC)),
        majority_accuracy=float(_accuracy(majority_CC)),
        majority_macro_f1=float(_macro_f1(majority_CC)),
    )


def score_label_sets(counts_C22: np.ndarray, seed: int = 0) -> ClassScores:
    """Return the scores of texts with any number of classes each.

    The draws of different classes are independent, although their texts are the same.

    Args:
        counts_C22: of each class, numbers of texts by (has it, is said to have it).
        seed: of the draws.
    """
    counts_C22 = np.rint(counts_C22).astype(np.int64)
    num_texts = int(counts_C22[0].sum())
    shares_C4 = counts_C22.reshape(-1, 4) / num_texts
    draws_RC4 = np.random.default_rng(seed).multinomial(
        num_texts, shares_C4, (_NUM_DRAWS, len(shares_C4))
    )
    draws_RC22 = draws_RC4.reshape(-1, *counts_C22.shape)
    majority_C22 = np.zeros_like(counts_C22)
    is_frequent_C = counts_C22[:, 1].sum(-1) * 2 > num_texts
    majority_C22[np.arange(len(counts_C22)), :, is_frequent_C.astype(int)] = counts_C22.sum(-1)
    return ClassScores(
        accuracy=_with_interval(_decisions(counts_C22), _decisions(draws_RC22)),
        macro_f1=_with_interval(_f1_of_sets(counts_C22), _f1_of_sets(draws_RC22)),
        majority_accuracy=float(_decisions(majority_C22)),
        majority_macro_f1=float(_f1_of_sets(majority_C22)),
    )


def _decisions(counts_C22: np.ndarray) -> np.ndarray:
    right_C = counts_C22[..., 0, 0] + counts_C22[..., 1, 1]
    return right_C.sum(-1) / counts_C22.sum((-3, -2, -1))


def _f1_of_sets(counts_C22: np.ndarray) -> np.ndarray:
    actual_C, predicted_C = counts_C22[..., 1, :].sum(-1), counts_C22[..., :, 1].sum(-1)
    return _mean_f1(counts_C22[..., 1, 1], actual_C + predicted_C)


def _proportion(share: float, number: int) -> Score:
    return Score(share, *proportion_interval(share, number))


def _accuracy(confusion_CC: np.ndarray) -> np.ndarray:
    return np.trace(confusion_CC, axis1=-2, axis2=-1) / confusion_CC.sum((-2, -1))


def _macro_f1(confusion_CC: np.ndarray) -> np.ndarray:
    right_C = np.diagonal(confusion_CC, axis1=-2, axis2=-1)
    return _mean_f1(right_C, confusion_CC.sum(-1) + confusion_CC.sum(-2))


def _mean_f1(right_C: np.ndarray, actual_and_predicted_C: np.ndarray) -> np.ndarray:
    f1_C = 2 * right_C / np.maximum(actual_and_predicted_C, 1)
    num_classes = np.count_nonzero(actual_and_predicted_C, axis=-1)
    return f1_C.sum(-1) / np.maximum(num_classes, 1)


def _with_interval(value: np.ndarray, draws: np.ndarray) -> Score:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Score(float(value), float(low), float(high))
