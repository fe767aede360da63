"""Sequences of packed rows: sums, values and hidden states, one per sequence.

A row holds sequences one after the other, as segments 1, 2, ... of at most S.

Axes: B rows, T tokens of a row, S sequences of a row, D model.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.distributed.hosts import is_first_host
from jaxgpt.evaluation.eval_step import row_multiple
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.sharding import replicated, to_devices
from jaxgpt.reports.console import track


def sequence_sums(values_BT: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
    """Return the sums over each sequence, float32 [B, S]; entry s is that of segment s + 1.

    Each is a sum of its own, not a scatter, whose order of additions a GPU leaves to chance.

    Args:
        values_BT: what is summed.
        segment_ids_BT: int32, 0 for padding.
        num_segments: most segments of a row, S.
    """
    ids_S = jnp.arange(1, num_segments + 1, dtype=segment_ids_BT.dtype)
    is_of_BTS = segment_ids_BT[..., None] == ids_S
    return jnp.sum(jnp.where(is_of_BTS, values_BT.astype(jnp.float32)[..., None], 0), axis=1)


def sequence_values(
    values_BT: jax.Array, segment_ids_BT: jax.Array, positions_BT: jax.Array, num_segments: int
) -> jax.Array:
    """Return what stands at each sequence's first token, float32 [B, S]; 0 where there is none."""
    return sequence_sums(values_BT * (positions_BT == 0), segment_ids_BT, num_segments)


def last_states(x_BTD: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
    """Return the hidden state of each sequence's last token, [B, S, D]."""
    ids_S = jnp.arange(1, num_segments + 1, dtype=segment_ids_BT.dtype)
    places_T = jnp.arange(segment_ids_BT.shape[1])
    is_of_BTS = segment_ids_BT[..., None] == ids_S
    last_BS = jnp.max(jnp.where(is_of_BTS, places_T[None, :, None], 0), axis=1)
    return jnp.take_along_axis(x_BTD, last_BS[..., None], axis=1)


def mean_states(x_BTD: jax.Array, segment_ids_BT: jax.Array, num_segments: int) -> jax.Array:
    """Return the mean of the hidden states of each sequence, [B, S, D]."""
    ids_S = jnp.arange(1, num_segments + 1, dtype=segment_ids_BT.dtype)
    is_of_BTS = (segment_ids_BT[..., None] == ids_S).astype(jnp.float32)
    sums_BSD = jnp.einsum(
        "BTS,BTD->BSD", is_of_BTS, x_BTD.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    num_tokens_BS1 = jnp.maximum(jnp.sum(is_of_BTS, axis=1), 1)[..., None]
    return (sums_BSD / num_tokens_BS1).astype(x_BTD.dtype)


def score_sequences(
    score: Callable[[Any, Batch], jax.Array],
    params: Any,
    rows: PackedRows,
    model: GptConfig,
    mesh: Mesh,
    batch_size: int,
    heartbeat: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return what a function gives for each sequence of packed rows, [E, G, ...].

    G is the number of sequences of an example.

    Args:
        score: a function (params, batch) -> [B, S, ...].
        params: parameters of the model, on the mesh.
        rows: the examples.
        model: whose layers say which numbers of rows divide.
        mesh: of all devices.
        batch_size: rows at a time, at least.
        heartbeat: called after each batch.
    """
    compiled = jax.jit(score, out_shardings=replicated(mesh))
    multiple, group_size = row_multiple(model, mesh), rows.examples.group_size
    size = -(-batch_size // multiple) * multiple
    parts: dict[int, np.ndarray] = {}
    starts = range(0, len(rows), size)
    for start in track(starts, len(starts), "batches of examples scored", not is_first_host()):
        chosen = range(start, min(start + size, len(rows)))
        batch = rows.batch([*chosen, *[None] * (size - len(chosen))])
        found_BS = np.asarray(compiled(params, to_devices(batch, mesh)))
        for row, found_S in zip(chosen, found_BS, strict=False):
            for place, example in enumerate(rows.members(row)):
                parts[int(example)] = found_S[place * group_size : (place + 1) * group_size]
        heartbeat()
    return np.stack([parts[example] for example in range(len(rows.examples))])
