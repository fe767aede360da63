"""The jitted step that scores one batch on the devices: what `measure_perplexity` is given."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.batch import Batch
from jaxgpt.evaluation.perplexity import EvalStep
from jaxgpt.parallel.sharding import to_devices
from jaxgpt.training.loss import LossConfig, language_model_loss


class EvalProgram:
    """Compiled once, used with the parameters of any step.

    Args:
        model: a language model.
        bytes_per_token: int [vocab_size], from the tokenizer.
        mesh: where batches go; their rows must divide its batch axes.
    """

    def __init__(self, model: nn.Module, bytes_per_token: Any, mesh: Mesh) -> None:
        loss = language_model_loss(model, jnp.asarray(bytes_per_token), LossConfig())

        def score(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
            sums = loss(params, batch, None)
            return sums.loss, sums.weight

        self._score = jax.jit(score)
        self._mesh = mesh

    def bind(self, params: Any) -> EvalStep:
        """The step for given parameters: host batch -> (loss sum in nats, weight sum)."""
        return lambda batch: self._score(params, to_devices(batch, self._mesh))
