"""Scores of a classifier with intervals, and a classifier of n-grams to compare it with.

A fine-tuned model that is no better than logistic regression on word pairs has learned nothing
that needed a language model. scikit-learn (extra `metrics`) is imported only for that baseline.

Axes: N items, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgpt.names.packages import import_package, install_advice

_DRAWS = 1000


def classification_scores(
    gold: Sequence[str], predicted: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return accuracy and macro-F1, each with a 95% interval by bootstrap over items.

    Macro-F1 is the mean over the classes of `gold` of 2 TP / (2 TP + FP + FN); a class that is
    never predicted counts as 0. A draw that lacks a class is a mean over the others.

    Args:
        gold: the right class of each item.
        predicted: the class that was predicted for it.
        seed: seed of the draws.

    Raises:
        ValueError: there are no items, or their numbers differ.
    """
    if not gold or len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} right classes and {len(predicted)} predicted ones")
    classes = sorted(set(gold))
    gold_NK, predicted_NK = (
        np.array([[name == each for each in classes] for name in names])
        for names in (gold, predicted)
    )
    right_NK = gold_NK & predicted_NK
    rng = np.random.default_rng(seed)
    # How often each draw takes each item.
    counts_DN = rng.multinomial(len(gold), np.full(len(gold), 1 / len(gold)), _DRAWS)
    all_1N = np.ones((1, len(gold)))
    figures = {}
    for name, score in (("accuracy", _accuracy), ("macro_f1", _macro_f1)):
        low, high = np.quantile(score(counts_DN, right_NK, gold_NK, predicted_NK), [0.025, 0.975])
        value = score(all_1N, right_NK, gold_NK, predicted_NK)[0]
        figures[name] = {"value": float(value), "low": float(low), "high": float(high),
                         "n": len(gold)}  # fmt: skip
    return figures


def _accuracy(
    counts_DN: np.ndarray, right_NK: np.ndarray, gold_NK: np.ndarray, predicted_NK: np.ndarray
) -> np.ndarray:
    return counts_DN @ right_NK.any(axis=1) / counts_DN.sum(axis=1)


def _macro_f1(
    counts_DN: np.ndarray, right_NK: np.ndarray, gold_NK: np.ndarray, predicted_NK: np.ndarray
) -> np.ndarray:
    there_DK = counts_DN @ gold_NK
    both_DK = there_DK + counts_DN @ predicted_NK
    f1_DK = 2 * (counts_DN @ right_NK) / np.maximum(both_DK, 1)
    return np.sum(f1_DK * (there_DK > 0), axis=1) / np.sum(there_DK > 0, axis=1)


def predict_by_n_grams(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str]
) -> list[str]:
    """Return the classes that logistic regression on TF-IDF of words and word pairs predicts.

    Raises:
        ConfigError: scikit-learn is missing.
    """
    advice = install_advice("metrics")
    text = import_package("sklearn.feature_extraction.text", "the n-gram classifier", advice)
    linear = import_package("sklearn.linear_model", "the n-gram classifier", advice)
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    model = linear.LogisticRegression(max_iter=1000, C=10.0)
    model.fit(vectorizer.fit_transform(train_texts), list(train_labels))
    return list(model.predict(vectorizer.transform(texts)))
