"""Loss of a model on held-out data by the objective of its run: perplexity and bits per byte."""

import math
from typing import Any

import jax.numpy as jnp

from jaxgpt.errors import DivergedError
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.evaluation.held_out import HeldOut
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.objective import Objective
from jaxgpt.reports.console import track
from jaxgpt.training.loss import LossConfig


def score_held_out(
    loaded: LoadedModel,
    held_out: HeldOut,
    objective: Objective,
    batch_size: int,
    max_tokens: int | None,
    silent: bool,
) -> dict[str, Any]:
    """Return the figures of an objective for held-out data; every target is predicted once.

    Args:
        loaded: the model.
        held_out: the data, in rows of its context length.
        objective: of its run.
        batch_size: rows per batch, rounded up to what the devices divide.
        max_tokens: most tokens to read; None for all.
        silent: show no progress.

    Raises:
        DivergedError: the loss is not finite.
    """
    model = loaded.model
    # The plain cross-entropy: what only steers training, such as the z-loss, is left out.
    loss = objective.build_held_out_loss(
        model, jnp.asarray(loaded.tokenizer.bytes_per_token), LossConfig(), held_out.num_segments
    )
    program = EvalProgram(loss, model.config, loaded.mesh)
    rows = program.round_up(batch_size)
    total = held_out.count_batches(rows, max_tokens)
    batches = track(held_out.batches(rows, max_tokens), total, "batches scored", silent=silent)
    result = objective.measure(program.bind(loaded.params), batches, loaded.tokenizer)
    if not math.isfinite(result["loss"]):
        raise DivergedError(f"the loss of the model is {result['loss']}; try an earlier --step")
    return {"sequence_length": loaded.context_length, **result}
