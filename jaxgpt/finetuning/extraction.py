"""`Extraction`: spans of a text with a label each, from a head on every token's hidden state.

    p = softmax(W' h_t),   L = -log p_c        h_t the state of token t, c its tag (tags.py)

Axes: B rows, T tokens of a row, D model, C tags, K labels.
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
from jaxgpt.finetuning.forms.tags import OUTSIDE, UNMARKED, count_spans, num_tags, renumber
from jaxgpt.finetuning.labels import LabelObjective
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.model.heads import TokenClassificationHead
from jaxgpt.model.layers.matmul import project
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.loss import LossConfig, LossFunction, LossSums, hidden_states_and_head

# Names of sums that are no scalars, so that no log has them: spans by label, and tokens by tag.
SPAN_COUNTS, TAG_COUNTS = "span_counts", "tag_counts"
_NUM_DRAWS = 1000


@configclass
class Extraction(LabelObjective):
    """Spans of a text, each with one of the configured labels.

    Every token of the text weighs 1.
    """

    label_name: ClassVar[str] = "spans"
    least_labels: ClassVar[int] = 1

    @property
    def head(self) -> TokenClassificationHead:
        """Return the head that these labels need."""
        return TokenClassificationHead(num_classes=num_tags(len(self.labels)))

    def adapt_model(self, model: GptConfig) -> GptConfig:
        return replace(model, head=self.head)

    def prepare(
        self, examples: TokenizedExamples, label_names: tuple[str, ...], max_length: int
    ) -> TokenizedExamples:
        """Return the examples with tags of this objective's labels.

        Raises:
            BadInputError: the examples have no spans, or one with a label that is not listed.
        """
        name = self.label_name
        if name not in examples.token_labels:
            self.refuse_unlabelled()
        tags_N = renumber(examples.token_labels[name], self.number_labels(label_names))
        return dataclasses.replace(examples, token_labels={name: tags_N})

    def build_loss(
        self, model: Gpt, bytes_per_token_V: jax.Array, loss: LossConfig, num_segments: int
    ) -> LossFunction:
        if model.config.head != self.head:
            raise ConfigError(
                f"model.head={model.config.head} cannot mark {len(self.labels)} labels; set it to "
                f"{self.head}"
            )

        def loss_function(params: Any, batch: Batch, rng: jax.Array | None) -> LossSums:
            (x_BTD, kernel), routing = hidden_states_and_head(model, params, batch, rng)
            sums, weights_B = self._sums(project(x_BTD, kernel), batch)
            if routing is None:
                return sums
            of_rows = routing.sum_rows(weights_B)
            objective = sums.objective + of_rows.auxiliary
            return sums._replace(objective=objective, routing=of_rows)

        return loss_function

    def _sums(self, logits_BTC: jax.Array, batch: Batch) -> tuple[LossSums, jax.Array]:
        """Return the sums over tokens of text, and their number in each row [B]."""
        assert batch.extras is not None
        tags_BT = batch.extras[self.label_name]
        is_text_BT = (batch.segment_ids_BT > 0) & (tags_BT != UNMARKED)
        tags_BT = jnp.where(is_text_BT, tags_BT, OUTSIDE)
        predicted_BT = jnp.where(is_text_BT, jnp.argmax(logits_BTC, axis=-1), OUTSIDE)
        one_hot_BTC = jax.nn.one_hot(tags_BT, logits_BTC.shape[-1]) * is_text_BT[..., None]
        loss = -jnp.sum(jax.nn.log_softmax(logits_BTC) * one_hot_BTC)
        weights_B = jnp.sum(is_text_BT.astype(jnp.float32), axis=1)
        sums = LossSums(
            objective=loss,
            loss=jax.lax.stop_gradient(loss),
            weight=jnp.sum(weights_B),
            num_bytes=None,
            figures={
                "token_accuracy": jnp.sum((predicted_BT == tags_BT) * is_text_BT, dtype="float32"),
                SPAN_COUNTS: count_spans(tags_BT, predicted_BT, len(self.labels)),
                TAG_COUNTS: jnp.sum(one_hot_BTC, (0, 1)),
            },
        )
        return sums, weights_B

    def measure(
        self, sums_of: SumsOf, batches: Iterable[Batch], tokenizer: Tokenizer
    ) -> dict[str, Any]:
        """Return loss, token accuracy, and precision, recall and F1 of spans, all and by label.

        F1 has a 95% interval of a bootstrap over spans; token accuracy stands next to that of the
        most frequent tag.
        """
        loss = weight = right = 0.0
        spans_K3, tags_C = np.zeros((len(self.labels), 3)), np.zeros(num_tags(len(self.labels)))
        for batch in batches:
            sums = sums_of(batch)
            loss, weight = loss + float(sums.loss), weight + float(sums.weight)
            assert sums.figures is not None
            right += float(sums.figures["token_accuracy"])
            spans_K3 += np.asarray(sums.figures[SPAN_COUNTS], np.float64)
            tags_C += np.asarray(sums.figures[TAG_COUNTS], np.float64)
        if not weight:
            raise ValueError("the batches have no text to mark")
        low, high = f1_interval(spans_K3.sum(0))
        return {
            "loss": loss / weight,
            **score_spans(spans_K3.sum(0)),
            "span_f1_low": low,
            "span_f1_high": high,
            "token_accuracy": right / weight,
            "majority_token_accuracy": float(tags_C.max() / weight),
            "tokens": int(weight),
            "labels": {
                name: score_spans(counts)
                for name, counts in zip(self.labels, spans_K3, strict=True)
            },
        }

    def describe(self, result: dict[str, Any]) -> str:
        return (
            f"validation loss {result['loss']:.4f}, span F1 {result['span_f1']:.3f} "
            f"({result['span_f1_low']:.3f} to {result['span_f1_high']:.3f}), precision "
            f"{result['span_precision']:.3f}, recall {result['span_recall']:.3f} over "
            f"{result['spans']:,} spans; token accuracy {result['token_accuracy']:.3f} (majority "
            f"{result['majority_token_accuracy']:.3f})"
        )


def score_spans(counts_3: np.ndarray) -> dict[str, Any]:
    """Return precision, recall and F1 of spans that are there, that are predicted, and both.

    A ratio without spans is 0, as in seqeval.
    """
    gold, predicted, right = (int(each) for each in counts_3)
    return {
        "span_f1": 2 * right / max(gold + predicted, 1),
        "span_precision": right / max(predicted, 1),
        "span_recall": right / max(gold, 1),
        "spans": gold,
    }


def f1_interval(counts_3: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of F1 by a bootstrap.

    Drawn are the spans that are there or predicted. They are taken for independent, although some
    share a text.

    Args:
        counts_3: spans that are there, that are predicted, and both.
        seed: of the draws.
    """
    gold, predicted, right = (int(each) for each in counts_3)
    if not (number := gold + predicted - right):
        return 0.0, 1.0
    shares = [right / number, 1 - right / number]
    right_R, wrong_R = np.random.default_rng(seed).multinomial(number, shares, _NUM_DRAWS).T
    low, high = np.quantile(2 * right_R / (2 * right_R + wrong_R), [0.025, 0.975])
    return float(low), float(high)
