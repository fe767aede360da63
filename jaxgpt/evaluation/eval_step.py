"""The jitted step that scores one batch on the devices: what `measure_perplexity` is given."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.evaluation.perplexity import EvalStep
from jaxgpt.model.gpt import Gpt, GptConfig
from jaxgpt.parallel.sharding import AnyMesh, batch_shards, to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss


class EvalProgram:
    """Compiled once, used with the parameters of any step.

    Args:
        model: a language model.
        bytes_per_token: int [vocab_size], from the tokenizer.
        mesh: where batches go; their rows must be a multiple of `row_multiple`.
    """

    def __init__(self, model: Gpt, bytes_per_token: Any, mesh: Mesh) -> None:
        loss = language_model_loss(model, jnp.asarray(bytes_per_token), LossConfig())

        def score(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
            sums = loss(params, batch, None)
            return sums.loss, sums.weight

        self._score = jax.jit(score)
        self._mesh = mesh
        self._row_multiple = row_multiple(model.config, mesh)

    def round_up(self, num_rows: int) -> int:
        """Return the least number of rows, `num_rows` or more, that a batch may have."""
        return -(-num_rows // self._row_multiple) * self._row_multiple

    def bind(self, params: Any) -> EvalStep:
        """Return the step for given parameters: host batch -> (loss sum in nats, weight sum)."""
        return lambda batch: self._score(params, to_devices(batch, self._mesh))


def row_multiple(model: GptConfig, mesh: AnyMesh) -> int:
    """Return the divisor of the rows of every batch on a mesh: its devices, and pipeline parts."""
    return math.lcm(batch_shards(mesh), model.layers.row_multiple(mesh.shape))
