"""Log-probabilities of the scored tokens of windows, on any devices, in few compiled programs.

Windows are sorted by length and padded to one of few lengths. Windows that read the same tokens
share a row: the choices of a question that are one token each cost one forward pass. Logits are
made at the scored places only.

Axes: B rows, T tokens of a row, S shards of the batch, L tokens of a shard's rows, N scored places
of a shard, C places at a time, D model, V padded vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.errors import DivergedError
from jaxgpt.evaluation.eval_step import row_multiple
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.windows import Window
from jaxgpt.inference.sampling import likeliest
from jaxgpt.model.layers.placement import constrain
from jaxgpt.parallel.sharding import batch_shards, replicated, to_devices
from jaxgpt.reports.console import track
from jaxgpt.training.loss import hidden_states_and_head, log_sum_exp

_SHORTEST_ROW = 16
_FEWEST_PLACES = 32
# Most places whose logits are in memory at once, on each shard.
_PLACES_AT_ONCE = 512


class TokenScores(NamedTuple):
    """Scores of the targets of a window, in order.

    Attributes:
        log_probs_N: float32, natural logarithms of their probabilities.
        greedy_N: bool, whether each is the most probable token at its place.
    """

    log_probs_N: np.ndarray
    greedy_N: np.ndarray


@dataclass
class _Row:
    """Tokens that are read once, and the places and targets that are scored in them."""

    inputs: tuple[int, ...]
    places: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)


class _Batch(NamedTuple):
    """A part of the rows, and the shape that it is padded to."""

    indices: list[int]
    num_rows: int
    length: int


class TokenScorer:
    """Scores windows with one model.

    Args:
        loaded: the model.
        batch_size: rows per batch of the longest windows; batches of shorter ones have more rows
            and about as many tokens.
        silent: show no progress.

    Raises:
        MismatchError: the model predicts no tokens.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int, silent: bool = False) -> None:
        self._loaded, self._head = loaded, loaded.head
        self._silent = silent
        self._num_shards = batch_shards(loaded.mesh)
        self._row_multiple = row_multiple(loaded.model.config, loaded.mesh)
        self._tokens_per_batch = batch_size * loaded.context_length
        self._length_multiple = loaded.mesh.shape["context"]
        self._score = jax.jit(self._score_places, out_shardings=replicated(loaded.mesh))

    def score(self, windows: Sequence[Window]) -> list[TokenScores]:
        """Return the scores of each window.

        A result does not depend on the other windows, but for rounding.

        Raises:
            DivergedError: the model's scores are not finite.
        """
        rows, found_at = _share_rows(windows)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].inputs))
        results: dict[int, TokenScores] = {}
        waiting = None
        batches = list(self._batches(rows, order))
        for batch in track(batches, len(batches), "batches scored", self._silent):
            running = self._start([rows[index] for index in batch.indices], batch)
            # The next batch runs while the results of this one are read.
            if waiting is not None:
                results |= self._finish(rows, *waiting)
            waiting = batch, running
        if waiting is not None:
            results |= self._finish(rows, *waiting)
        return [
            TokenScores(*(values[first : first + window.num_targets] for values in results[row]))
            for window, (row, first) in zip(windows, found_at, strict=True)
        ]

    def _batches(self, rows: Sequence[_Row], order: Sequence[int]) -> Iterator[_Batch]:
        """Divide rows, of which the longest come first, into batches."""
        start = 0
        while start < len(order):
            longest = len(rows[order[start]].inputs)
            length = min(_round_up(longest, _SHORTEST_ROW), self._loaded.context_length)
            length = -(-length // self._length_multiple) * self._length_multiple
            most = max(1, self._tokens_per_batch // length)
            num_rows = min(most, _round_up(len(order) - start, 1))
            num_rows = -(-num_rows // self._row_multiple) * self._row_multiple
            yield _Batch(list(order[start : start + num_rows]), num_rows, length)
            start += num_rows

    def _start(self, rows: Sequence[_Row], batch: _Batch) -> tuple[jax.Array, jax.Array]:
        """Let the devices score a batch; the results [S, N] are perhaps on their way."""
        tokens_BT, valid_BT = np.zeros((2, batch.num_rows, batch.length), np.int32)
        for index, row in enumerate(rows):
            tokens_BT[index, : len(row.inputs)] = row.inputs
            valid_BT[index, : len(row.inputs)] = 1
        positions_BT = np.tile(np.arange(batch.length, dtype=np.int32), (batch.num_rows, 1))
        places_SN, targets_SN = self._places(rows, batch)
        on_devices = to_devices(
            Batch(tokens_BT, tokens_BT, valid_BT, positions_BT, valid_BT), self._loaded.mesh
        )
        return self._score(self._loaded.params, on_devices, places_SN, targets_SN)

    def _places(self, rows: Sequence[_Row], batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
        """Return the scored places within each shard's tokens, and their targets, int32 [S, N]."""
        rows_of_shard = batch.num_rows // self._num_shards
        shards = range(self._num_shards)
        parts = [rows[shard * rows_of_shard : (shard + 1) * rows_of_shard] for shard in shards]
        most = max(sum(len(row.places) for row in part) for part in parts)
        num_places = _round_up(most, _FEWEST_PLACES)
        if num_places > _PLACES_AT_ONCE:
            num_places = -(-num_places // _PLACES_AT_ONCE) * _PLACES_AT_ONCE
        places_SN, targets_SN = np.zeros((2, self._num_shards, num_places), np.int32)
        for shard, part in enumerate(parts):
            placed = [
                index * batch.length + place
                for index, row in enumerate(part)
                for place in row.places
            ]
            places_SN[shard, : len(placed)] = placed
            targets_SN[shard, : len(placed)] = [target for row in part for target in row.targets]
        return places_SN, targets_SN

    def _score_places(
        self, params: Any, batch: Batch, places_SN: jax.Array, targets_SN: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the log-probability of each target, and whether it is the most probable token."""
        model, head = self._loaded.model, self._head
        (x_BTD, kernel), _ = hidden_states_and_head(model, params, batch, None)
        num_shards, num_places = places_SN.shape
        x_SLD = constrain(x_BTD.reshape(num_shards, -1, x_BTD.shape[-1]), "batch", None, "residual")
        x_SND = jnp.take_along_axis(x_SLD, places_SN[..., None], axis=1)

        def score(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x_SCD, targets_SC = inputs
            logits_SCV = head.logits(x_SCD, kernel, model.vocab_size)
            target_SC = jnp.take_along_axis(logits_SCV, targets_SC[..., None], axis=-1)[..., 0]
            greedy_SC = likeliest(logits_SCV) == targets_SC
            return target_SC - log_sum_exp(logits_SCV), greedy_SC

        if num_places <= _PLACES_AT_ONCE:
            return score((x_SND, targets_SN))

        def chunks(values: jax.Array) -> jax.Array:
            parts = values.reshape(num_shards, -1, _PLACES_AT_ONCE, *values.shape[2:])
            return parts.swapaxes(0, 1)

        scores = jax.lax.map(score, (chunks(x_SND), chunks(targets_SN)))
        return jax.tree.map(lambda part: part.swapaxes(0, 1).reshape(num_shards, -1), scores)

    def _finish(
        self, rows: Sequence[_Row], batch: _Batch, running: tuple[jax.Array, jax.Array]
    ) -> dict[int, TokenScores]:
        """Wait for a batch; return the scores of its rows, by their index."""
        log_probs_SN, greedy_SN = (np.asarray(part) for part in running)
        rows_of_shard = batch.num_rows // self._num_shards
        results = {}
        for shard in range(self._num_shards):
            start = 0
            for index in batch.indices[shard * rows_of_shard : (shard + 1) * rows_of_shard]:
                stop = start + len(rows[index].places)
                log_probs_N, greedy_N = (
                    log_probs_SN[shard, start:stop],
                    greedy_SN[shard, start:stop],
                )
                if not np.isfinite(log_probs_N).all():
                    raise DivergedError(
                        "the model's scores are not finite: its parameters are damaged or "
                        "training diverged; try an earlier --step"
                    )
                results[index] = TokenScores(log_probs_N, greedy_N)
                start = stop
        return results


def _share_rows(windows: Sequence[Window]) -> tuple[list[_Row], list[tuple[int, int]]]:
    """Return the rows to read, and for each window its row and its first place in there."""
    rows: dict[tuple[int, ...], tuple[int, _Row]] = {}
    found_at = []
    for window in windows:
        inputs = window.ids[:-1]
        index, row = rows.setdefault(inputs, (len(rows), _Row(inputs)))
        found_at.append((index, len(row.places)))
        row.places += range(len(inputs) - window.num_targets, len(inputs))
        row.targets += window.ids[-window.num_targets :]
    return [row for _, row in rows.values()], found_at


def _round_up(number: int, least: int) -> int:
    """Return the next number among `least` times 1, 1.5, 2, 3, 4, 6, 8, ..."""
    size = least
    while size < number:
        size *= 2
    between = size * 3 // 4
    return between if size > least and between >= number else size
