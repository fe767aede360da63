"""`SingleLabel`: one class of a whole text, from a head on a pooled hidden state.

`Classification` is what it shares with `MultiLabel`.

Axes: B rows, T tokens of a row, S texts of a row, D model, C classes.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.config import configclass, replace
from jaxgpt.errors import ConfigError
from jaxgpt.evaluation.objective import SumsOf
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.finetuning.classification.pooling import LastToken, Pooling
from jaxgpt.finetuning.classification.predictions import score_predictions
from jaxgpt.finetuning.classification.scores import ClassScores, score_single_labels
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.labels import LabelObjective
from jaxgpt.finetuning.segments import sequence_sums, sequence_values
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.heads import ClassificationHead
from jaxgpt.model.layers.matmul import project
from jaxgpt.model.moe.routing_stats import Routing
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums, hidden_states_and_head

# Name of what a batch says about each text: the index of its class.
LABEL = "label"
# Name of the sums that scores are made from; they are no scalar, and no log has them.
COUNTS = "counts"


@configclass
class Classification(LabelObjective):
    """Base of the objectives that give a text one of the configured labels, or several."""

    pooling: Pooling = LastToken()
    """Choice of the hidden state that the head reads."""

    def adapt_model(self, model: GptConfig) -> GptConfig:
        return replace(model, head=ClassificationHead(num_classes=len(self.labels)))

    def prepare(
        self, examples: TokenizedExamples, label_names: tuple[str, ...], max_length: int
    ) -> TokenizedExamples:
        """Return the examples with numbers of this objective's labels.

        Raises:
            BadInputError: the examples have no labels, or one that is not listed.
        """
        name = self.label_name
        if name not in examples.labels:
            self.refuse_unlabelled()
        labels = {name: self.renumber(examples.labels[name], self.number_labels(label_names))}
        return dataclasses.replace(examples, labels=labels)

    def renumber(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return what examples bring, [E, ...], by the numbers that their classes have here."""
        raise NotImplementedError(f"{type(self).__name__} has no renumber")

    def truth(self, batch: Batch, num_segments: int) -> jax.Array:
        """Return which classes the texts have, 0 or 1, [B, S, C]."""
        raise NotImplementedError(f"{type(self).__name__} has no truth")

    def losses(self, logits_BSC: jax.Array, truth_BSC: jax.Array) -> jax.Array:
        """Return the loss of each text, [B, S]."""
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def predict(self, logits_BSC: jax.Array) -> jax.Array:
        """Return which classes are predicted, 0 or 1, [B, S, C]."""
        raise NotImplementedError(f"{type(self).__name__} has no predict")

    def counts(
        self, truth_BSC: jax.Array, predicted_BSC: jax.Array, exists_BS: jax.Array
    ) -> jax.Array:
        """Return the numbers of texts that `score` takes, sums over all texts."""
        raise NotImplementedError(f"{type(self).__name__} has no counts")

    def score(self, counts: np.ndarray) -> ClassScores:
        """Return the scores of counts."""
        raise NotImplementedError(f"{type(self).__name__} has no score")

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        head = model.config.head
        if not isinstance(head, ClassificationHead) or head.num_classes != len(self.labels):
            raise ConfigError(
                f"model.head={head} cannot give {len(self.labels)} labels; "
                f"set it to ClassificationHead(num_classes={len(self.labels)})"
            )

        def loss_function(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            logits_BSC, routing = self._logits(model, params, batch, rng, num_segments)
            sums, weights_B = self._sums(logits_BSC, batch, num_segments)
            if routing is None:
                return sums
            of_rows = routing.sum_rows(weights_B)
            objective = sums.objective + of_rows.auxiliary
            return sums._replace(objective=objective, routing=of_rows)

        return loss_function

    def _logits(
        self, model: Gpt, params: Any, batch: Batch, rng: jax.Array | None, num_segments: int
    ) -> tuple[jax.Array, Routing | None]:
        (x_BTD, kernel), routing = hidden_states_and_head(model, params, batch, rng)
        pooled_BSD = self.pooling.pool(x_BTD, batch.segment_ids_BT, num_segments)
        return project(pooled_BSD, kernel), routing

    def _sums(
        self, logits_BSC: jax.Array, batch: Batch, num_segments: int
    ) -> tuple[LossSums, jax.Array]:
        """Return the sums over texts, each of which weighs 1, and the texts of each row [B]."""
        ones_BT = jnp.ones(batch.tokens_BT.shape, jnp.float32)
        sizes_BS = sequence_sums(ones_BT, batch.segment_ids_BT, num_segments)
        exists_BS = (sizes_BS > 0).astype(jnp.float32)
        truth_BSC = self.truth(batch, num_segments)
        predicted_BSC = self.predict(logits_BSC)
        loss = jnp.sum(self.losses(logits_BSC, truth_BSC) * exists_BS)
        is_right_BS = jnp.mean(truth_BSC == predicted_BSC, axis=-1) == 1
        sums = LossSums(
            objective=loss,
            loss=jax.lax.stop_gradient(loss),
            weight=jnp.sum(exists_BS),
            num_bytes=None,
            figures={
                "exact_match": jnp.sum(is_right_BS * exists_BS),
                COUNTS: self.counts(truth_BSC, predicted_BSC, exists_BS),
            },
        )
        return sums, jnp.sum(exists_BS, axis=1)

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        """Return loss, accuracy and macro-F1 with 95% intervals, and those of the majority."""
        loss = weight = exact = 0.0
        counts = np.zeros(())
        for batch in batches:
            sums = sums_of(batch)
            loss, weight = loss + float(sums.loss), weight + float(sums.weight)
            assert sums.figures is not None
            exact += float(sums.figures["exact_match"])
            counts = counts + np.asarray(sums.figures[COUNTS], np.float64)
        if not weight:
            raise ValueError("the batches have no text to classify")
        scores = self.score(counts)
        return {
            "loss": loss / weight,
            "exact_match": exact / weight,
            **{
                f"{name}{part}": value
                for name, score in (("accuracy", scores.accuracy), ("macro_f1", scores.macro_f1))
                for part, value in zip(("", "_low", "_high"), score, strict=True)
            },
            "majority_accuracy": scores.majority_accuracy,
            "majority_macro_f1": scores.majority_macro_f1,
            "examples": int(weight),
        }

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"validation loss {result['loss']:.4f}, accuracy {result['accuracy']:.3f} "
            f"({result['accuracy_low']:.3f} to {result['accuracy_high']:.3f}; majority "
            f"{result['majority_accuracy']:.3f}), macro-F1 {result['macro_f1']:.3f} "
            f"({result['macro_f1_low']:.3f} to {result['macro_f1_high']:.3f}; majority "
            f"{result['majority_macro_f1']:.3f}) over {result['examples']:,} texts"
        )


@configclass
class SingleLabel(Classification):
    """One label of each text: softmax and cross-entropy.

    p = softmax(W' h),   L = -log p_c        h the pooled state, c the text's class
    """

    label_name: ClassVar[str] = LABEL
    example_scores = ("n_grams",)

    def renumber(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return numbers[labels]

    def truth(self, batch: Batch, num_segments: int) -> jax.Array:
        assert batch.extras is not None
        labels_BS = sequence_values(
            batch.extras[LABEL], batch.segment_ids_BT, batch.positions_BT, num_segments
        )
        return jax.nn.one_hot(labels_BS.astype(jnp.int32), len(self.labels))

    def losses(self, logits_BSC: jax.Array, truth_BSC: jax.Array) -> jax.Array:
        return -jnp.sum(jax.nn.log_softmax(logits_BSC) * truth_BSC, axis=-1)

    def predict(self, logits_BSC: jax.Array) -> jax.Array:
        return jax.nn.one_hot(jnp.argmax(logits_BSC, axis=-1), len(self.labels))

    def counts(
        self, truth_BSC: jax.Array, predicted_BSC: jax.Array, exists_BS: jax.Array
    ) -> jax.Array:
        """Return the numbers of texts by (actual class, predicted class), [C, C]."""
        actual_BSC = truth_BSC * exists_BS[..., None]
        return jnp.einsum(
            "BSC,BSE->CE", actual_BSC, predicted_BSC, precision=jax.lax.Precision.HIGHEST
        )

    def score(self, counts: np.ndarray) -> ClassScores:
        return score_single_labels(counts)

    def score_examples(self, scoring: ExampleScoring) -> TaskResult:
        def logits_of(params: Any, batch: Batch) -> jax.Array:
            num_segments = scoring.rows.num_segments
            return self._logits(scoring.loaded.model, params, batch, None, num_segments)[0]

        return score_predictions(scoring, logits_of, self.labels, self.label_name)
