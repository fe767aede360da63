"""jaxgpt's train step as `train.py` composes it, on batches that lie on the device."""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import on_mesh, to_devices
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runtime.settings import configure_runtime
from jaxgpt.training.loss import language_model_loss
from jaxgpt.training.state import init_parameters, init_state, plan_state
from jaxgpt.training.step import compile_step, make_train_step


class TrainRounds:
    """A state that is trained on, round by round.

    Attributes:
        mesh: all devices there are.
        compiled: the step's program, for its memory and its text.
    """

    def __init__(self, config: TrainConfig, vocab_size: int, batches: list[Batch]) -> None:
        """Compile the step and make the first state.

        Args:
            config: model, loss, optimiser, schedule, recovery and mesh of the run.
            vocab_size: ids of the model.
            batches: NumPy; the steps go through them in turn.
        """
        # Two processes share a GPU: neither may take what the other needs.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        configure_runtime(config.runtime)
        self.mesh = make_mesh(config.mesh)
        self._config = config
        model = config.model.build(vocab_size)
        schedule = config.schedule.build()
        plan, optimizer = plan_state(
            model,
            lambda axes: config.optimizer.build(schedule, axes),
            config.sharding,
            self.mesh,
            config.recovery,
        )
        loss = language_model_loss(model, jnp.ones(vocab_size, jnp.int32), config.loss)
        step = make_train_step(loss, optimizer, config.batch.num_micro_batches, config.recovery)
        with on_mesh(self.mesh, config.sharding):
            params = init_parameters(model, config.sharding, self.mesh, config.seed)
            self._state = init_state(params, optimizer, plan, config.seed)
            self._batches = [to_devices(batch, self.mesh) for batch in batches]
            jitted: Any = compile_step(step, plan.abstract, self.mesh)
            self.compiled = jitted.lower(self._state, self._batches[0]).compile()
        self._num_steps = 0

    def parameters(self) -> Any:
        """Return the present parameters, as nested dicts of NumPy arrays."""
        return jax.tree.map(np.asarray, self._state.trainable)

    def train(self, num_steps: int) -> tuple[float, list[float]]:
        """Take `num_steps` steps; return their seconds and losses."""
        losses = []
        jax.block_until_ready(self._state)
        start = time.perf_counter()
        for _ in range(num_steps):
            batch = self._batches[self._num_steps % len(self._batches)]
            self._state, metrics = self.compiled(self._state, batch)
            losses.append(metrics.loss)
            self._num_steps += 1
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - start
        return seconds, [float(loss) for loss in losses]
