"""Faults put into a run from outside: the batches, the loss, the moments at which signals come.

The code under test has no switch for any of it: what it calls is replaced here.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.batch import Batch
from jaxgpt.data.loader import TrainingBatches, open_training_batches
from jaxgpt.evaluation import objective
from jaxgpt.runs import config
from jaxgpt.training.loss import language_model_loss

# What a batch's weights are multiplied by to mark it. Powers of two: without the faulty loss below
# the mean loss of a marked batch is, to the bit, that of the batch.
_SPIKE, _BAD_GRADIENT = 2.0, 4.0
SPIKE_FACTOR = 50.0
# What can be wrong with a batch itself: it is so whenever it is read.
MARKS = {"nan": np.nan, "spike": _SPIKE, "nan_gradient": _BAD_GRADIENT}


class Faults:
    """What happens when which batch is read; each fault that is no property of a batch, once.

    Args:
        plan: kind of fault by the batch's index: "nan", "spike", "nan_gradient", "kill", "term",
            "hang", "error" (of the loader), or a name in `more`.
        done: a file that remembers, over processes, what has happened.
        more: further kinds: called with the batch's index.
    """

    def __init__(
        self,
        plan: Mapping[int, str],
        done: Path,
        more: Mapping[str, Callable[[int], object]] | None = None,
    ) -> None:
        self._plan = dict(plan)
        self._done = done
        self._acts: dict[str, Callable[[int], object]] = {
            "kill": lambda index: os.kill(os.getpid(), signal.SIGKILL),
            "term": lambda index: os.kill(os.getpid(), signal.SIGTERM),
            "hang": lambda index: time.sleep(10_000),
            "error": _fail,
            **(more or {}),
        }
        self.read: list[int] = []

    def open_batches(self, *arguments: Any) -> TrainingBatches:
        """In place of `open_training_batches`."""
        batches = open_training_batches(*arguments)
        pick = batches.pick

        def faulty_pick(step: int, rows: Sequence[int]) -> Batch:
            batch = pick(step, rows)
            self.read.append(step)
            kind = self._plan.get(step)
            if kind in MARKS:
                weights = (batch.loss_weights_BT * MARKS[kind]).astype(np.float32)
                return batch._replace(loss_weights_BT=weights)
            if kind is not None and self._is_new(step):
                self._acts[kind](step)
            return batch

        batches.pick = faulty_pick  # type: ignore[method-assign]
        return batches

    def install(self, replace: Callable[[Any, str, Any], None] = setattr) -> None:
        """Put the faults into this process; `replace` may be pytest's, which undoes it."""
        replace(config, "open_training_batches", self.open_batches)
        replace(objective, "language_model_loss", faulty_loss)

    def _is_new(self, step: int) -> bool:
        """Whether a fault has not happened yet; noted durably before it does."""
        before = json.loads(self._done.read_text()) if self._done.exists() else []
        if step in before:
            return False
        with open(self._done, "w") as file:
            json.dump([*before, step], file)
            file.flush()
            os.fsync(file.fileno())
        return True


def faulty_loss(*arguments: Any) -> Any:
    """In place of `language_model_loss`: marked batches have 50 times the loss, or no gradient."""
    loss = language_model_loss(*arguments)

    def faulty(params: Any, batch: Batch, rng: jax.Array | None) -> Any:
        sums = loss(params, batch, rng)
        mark = jnp.max(batch.loss_weights_BT)
        factor = jnp.where(mark == _SPIKE, SPIKE_FACTOR, 1.0)
        bad = jax.lax.cond(
            mark == _BAD_GRADIENT, _zero_without_gradient, jnp.zeros_like, jnp.sum(sums.objective)
        )
        return sums._replace(objective=sums.objective * factor + bad, loss=sums.loss * factor)

    return faulty


def _zero_without_gradient(value: jax.Array) -> jax.Array:
    return jnp.sqrt(value * 0)


def _fail(index: int) -> None:
    raise OSError(f"input/output error at batch {index}")
