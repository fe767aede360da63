"""Accuracy and macro-F1 as scikit-learn has them, and a baseline that a model must beat."""

import numpy as np
import pytest

from jaxgpt.evaluation.classification import classification_scores, predict_by_n_grams

REASON = "needs: pip install -e '.[metrics]'"


def test_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason=REASON)
    rng = np.random.default_rng(0)
    gold = rng.choice(["no", "yes", "maybe"], 200, p=[0.7, 0.25, 0.05]).tolist()
    # One class is never predicted, and one that is predicted does not exist.
    predicted = np.where(rng.random(200) < 0.6, gold, "no").tolist()
    predicted = ["other" if name == "maybe" else name for name in predicted]
    found = classification_scores(gold, predicted)
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    expected = metrics.f1_score(gold, predicted, average="macro", labels=["no", "yes", "maybe"])
    assert found["macro_f1"]["value"] == pytest.approx(expected)
    for figure in found.values():
        assert figure["low"] < figure["value"] < figure["high"]
        assert figure["n"] == 200
    stderr = np.sqrt(found["accuracy"]["value"] * (1 - found["accuracy"]["value"]) / 200)
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    assert width == pytest.approx(2 * 1.96 * stderr, rel=0.1)


def test_words_are_a_classifier() -> None:
    pytest.importorskip("sklearn", reason=REASON)
    texts = [f"the {animal} is {kind} today" for kind in ("loud", "quiet", "small")
             for animal in ("dog", "cat", "bird", "fish")]  # fmt: skip
    labels = ["noise"] * 4 + ["calm"] * 8
    others = ["the cow is loud today", "a cow was small"]
    assert predict_by_n_grams(texts, labels, others) == ["noise", "calm"]
    with pytest.raises(ValueError, match="2 right classes and 1 predicted"):
        classification_scores(["a", "b"], ["a"])
