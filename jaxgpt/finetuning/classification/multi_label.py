"""`MultiLabel`: any number of classes of a whole text.

Axes: B rows, T tokens of a row, S texts of a row, C classes.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.config import configclass
from jaxgpt.finetuning.classification.objective import Classification
from jaxgpt.finetuning.classification.scores import ClassScores, score_label_sets
from jaxgpt.finetuning.segments import sequence_values

# Name of what a batch says about each text: which classes it has, 0 or 1.
LABELS = "labels"


@configclass
class MultiLabel(Classification):
    """Any number of labels of each text: a yes or no for each.

        p_c = s(w_c' h),   L = -mean_c (y_c log p_c + (1 - y_c) log(1 - p_c))

    with s(x) = 1 / (1 + exp(-x)) and y_c = 1 if the text has class c, otherwise 0.
    """

    label_name: ClassVar[str] = LABELS

    def renumber(self, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        moved = np.zeros((len(labels), len(self.labels)), bool)
        moved[:, numbers] = labels
        return moved

    def truth(self, batch: Batch, num_segments: int) -> jax.Array:
        assert batch.extras is not None
        columns = [
            sequence_values(
                batch.extras[LABELS][..., place],
                batch.segment_ids_BT,
                batch.positions_BT,
                num_segments,
            )
            for place in range(len(self.labels))
        ]
        return jnp.stack(columns, axis=-1)

    def losses(self, logits_BSC: jax.Array, truth_BSC: jax.Array) -> jax.Array:
        signed_BSC = logits_BSC * (2 * truth_BSC - 1)
        return -jnp.mean(jax.nn.log_sigmoid(signed_BSC), axis=-1)

    def predict(self, logits_BSC: jax.Array) -> jax.Array:
        return (logits_BSC > 0).astype(jnp.float32)

    def counts(
        self, truth_BSC: jax.Array, predicted_BSC: jax.Array, exists_BS: jax.Array
    ) -> jax.Array:
        """Return, for each class, the numbers of texts by (has it, is said to), [C, 2, 2]."""
        has_BSC2 = jnp.stack([1 - truth_BSC, truth_BSC], axis=-1) * exists_BS[..., None, None]
        said_BSC2 = jnp.stack([1 - predicted_BSC, predicted_BSC], axis=-1)
        return jnp.einsum(
            "BSCX,BSCY->CXY", has_BSC2, said_BSC2, precision=jax.lax.Precision.HIGHEST
        )

    def score(self, counts: np.ndarray) -> ClassScores:
        return score_label_sets(counts)
