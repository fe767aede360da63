"""A classifier's labels of single texts, next to those of logistic regression on their words."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.evaluation.classification import classification_scores, predict_by_n_grams
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.statistics import Metric, Values, paired_difference
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.segments import score_sequences
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.tokenizer.readable import text_without_controls
from jaxgpt.tokenizer.tokenizer import Tokenizer


def score_predictions(
    scoring: ExampleScoring,
    logits_of: Callable[[Any, Batch], jax.Array],
    labels: tuple[str, ...],
    label_name: str,
) -> TaskResult:
    """Return which texts get their label, and which do by logistic regression if asked for.

    Both read the same text, cut to the context, and learned from the same examples.

    Args:
        scoring: model, texts and options.
        logits_of: a function (params, batch) -> [B, S, C].
        labels: names of the classes.
        label_name: name of the labels of the examples.

    Raises:
        ConfigError: scikit-learn is missing.
    """
    loaded, rows = scoring.loaded, scoring.rows
    arguments = loaded.model.config, loaded.mesh, scoring.batch_size
    logits_EC = score_sequences(logits_of, loaded.params, rows, *arguments)[:, 0]
    gold = [labels[number] for number in rows.examples.labels[label_name]]
    predictions = {"": [labels[number] for number in logits_EC.argmax(axis=-1)]}
    texts = read_texts(rows.examples, loaded.tokenizer)
    if "n_grams" in scoring.options.example_scores:
        training = scoring.read_training()
        known = [labels[number] for number in training.labels[label_name]]
        known_texts = read_texts(training, loaded.tokenizer)
        predictions["n_grams_"] = predict_by_n_grams(known_texts, known, texts)
    values = {
        f"{name}accuracy": np.array([a == b for a, b in zip(found, gold, strict=True)], float)
        for name, found in predictions.items()
    }
    figures = {
        f"{name}macro_f1": classification_scores(gold, found)["macro_f1"]
        for name, found in predictions.items()
    }
    if "n_grams_accuracy" in values:
        figures["above_n_grams"] = _difference(values["accuracy"], values["n_grams_accuracy"])
    samples = [
        {"text": text, "gold": right, "predicted": found, "logits": logits_C.tolist()}
        for text, right, found, logits_C in zip(
            texts, gold, predictions[""], logits_EC, strict=True
        )
    ]
    return scoring.result("texts", "labels of texts", values, samples, 1 / len(labels), figures)


def read_texts(examples: TokenizedExamples, tokenizer: Tokenizer) -> list[str]:
    """Return the text of each example as the model reads it: without what did not fit."""
    sequences = (examples.sequence(index)[0] for index in range(len(examples)))
    return [text_without_controls(ids_L, tokenizer) for ids_L in sequences]


def _difference(ours_E: np.ndarray, theirs_E: np.ndarray) -> dict[str, Any]:
    """Return the difference of two accuracies on the same texts."""
    ones_E = np.ones(len(ours_E))
    found = paired_difference(Metric("none"), Values(ours_E, ones_E), Values(theirs_E, ones_E))
    return {**found._asdict(), "n": len(ours_E)}
