"""The jitted step that scores one batch on the devices: what `Objective.measure` is given."""

import math
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.evaluation.objective import SumsOf
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.sharding import AnyMesh, batch_shards, replicated, to_devices
from jaxgpt.training.loss import LossFunction, LossSums


class EvalProgram:
    """Compiled once, used with the parameters of any step.

    Args:
        loss: of a batch.
        model: whose layers say which numbers of rows divide.
        mesh: where batches go; their rows must be a multiple of `row_multiple`.
    """

    def __init__(self, loss: LossFunction, model: GptConfig, mesh: Mesh) -> None:
        def score(params: Any, batch: Batch) -> LossSums:
            # What is not read is not computed: the auxiliary losses of routers, and statistics.
            sums = loss(params, batch, None)
            return sums._replace(objective=sums.loss, routing=None)

        # On every device, and so on every host: some objectives read arrays of the sums.
        self._score = jax.jit(score, out_shardings=replicated(mesh))
        self._mesh = mesh
        self._row_multiple = row_multiple(model, mesh)

    def round_up(self, num_rows: int) -> int:
        """Return the least number of rows, `num_rows` or more, that a batch may have."""
        return -(-num_rows // self._row_multiple) * self._row_multiple

    def bind(self, params: Any) -> SumsOf:
        """Return the step for given parameters: host batch -> sums on the device."""
        return lambda batch: self._score(params, to_devices(batch, self._mesh))


def row_multiple(model: GptConfig, mesh: AnyMesh) -> int:
    """Return the divisor of the rows of every batch on a mesh: its devices, and pipeline parts."""
    return math.lcm(batch_shards(mesh), model.layers.row_multiple(mesh.shape))
