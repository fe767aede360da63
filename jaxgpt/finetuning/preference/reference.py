"""The reference: log-probabilities of the model that training began from.

With an adapter that model is the one without the adapter: a second pass over the same frozen
weights, of which there is no copy. Where all weights are trained, the log-probabilities come with
the examples: they were computed once, before the first step.

Axes: B rows, T tokens of a row, S sequences of a row, P examples of a row, E examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.finetuning.log_probabilities import log_probabilities_of
from jaxgpt.finetuning.segments import score_sequences, sequence_sums, sequence_values
from jaxgpt.model.adapted import split
from jaxgpt.model.gpt import Gpt
from jaxgpt.model.layers.adapters import NoAdapter
from jaxgpt.training.loss import LossConfig

# Name of the log-probabilities of an example's two answers, which each of its tokens brings,
# [B, T, 2].
REFERENCE = "reference_log_probabilities"


def sum_answers(values_BT: jax.Array, batch: Batch, num_segments: int) -> jax.Array:
    """Return the sums over the answer of each sequence, [B, S]: tokens that have weight."""
    kept_BT = jnp.where(batch.loss_weights_BT > 0, values_BT, 0)
    return sequence_sums(kept_BT, batch.segment_ids_BT, num_segments)


def reference_of(
    model: Gpt, config: LossConfig, num_segments: int
) -> Callable[[Any, Batch], jax.Array]:
    """Return a function (params, batch) -> log-probabilities of answers [B, S], not differentiated.

    Args:
        model: the one that is trained, with an adapter or without.
        config: says in which chunks the logits are computed.
        num_segments: most sequences of a row, an even number.
    """
    if not model.adapter.has_parameters:
        return lambda params, batch: _brought(batch, num_segments)
    base = log_probabilities_of(model.clone(adapter=NoAdapter()), config)

    def reference(params: Any, batch: Batch) -> jax.Array:
        _, frozen = split(params, model.adapter.is_trainable)
        values_BT = base(jax.lax.stop_gradient(frozen), batch, None).values_BT
        return jax.lax.stop_gradient(sum_answers(values_BT, batch, num_segments))

    return reference


def _brought(batch: Batch, num_segments: int) -> jax.Array:
    """Return what the examples brought with them, [B, S]."""
    assert batch.extras is not None
    first_BS, second_BS = (
        sequence_values(
            batch.extras[REFERENCE][..., place],
            batch.segment_ids_BT,
            batch.positions_BT,
            num_segments,
        )
        for place in range(2)
    )
    pairs_BP2 = jnp.stack([first_BS[:, 0::2], second_BS[:, 1::2]], axis=-1)
    return pairs_BP2.reshape(first_BS.shape)


def score_answers(
    model: Gpt,
    params: Any,
    rows: PackedRows,
    mesh: Mesh,
    batch_size: int,
    config: LossConfig,
    heartbeat: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the log-probabilities of both answers of each example, float32 [E, 2].

    Args:
        model: the reference.
        params: its parameters, on the mesh.
        rows: examples of two sequences each.
        mesh: of all devices.
        batch_size: rows at a time, at least.
        config: says in which chunks the logits are computed.
        heartbeat: called after each batch.
    """
    if not len(rows):
        return np.zeros((0, 2), np.float32)
    log_probabilities = log_probabilities_of(model, config)

    def score(params: Any, batch: Batch) -> jax.Array:
        values_BT = log_probabilities(params, batch, None).values_BT
        return sum_answers(values_BT, batch, rows.num_segments)

    return score_sequences(score, params, rows, model.config, mesh, batch_size, heartbeat)
