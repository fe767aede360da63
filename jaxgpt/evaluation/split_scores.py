"""Loss, perplexity and bits per byte of a model on a split of a dataset."""

import math
from typing import Any

from jaxgpt.data.shards import TokenSplit
from jaxgpt.errors import DivergedError
from jaxgpt.evaluation.eval_step import EvalProgram
from jaxgpt.evaluation.held_out import read_batches
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.perplexity import measure_perplexity


def score_split(
    loaded: LoadedModel,
    split: TokenSplit,
    batch_size: int,
    max_tokens: int | None,
    mask_documents: bool,
    silent: bool,
) -> dict[str, Any]:
    """Return the fields of `Perplexity` for a split; every token is predicted once.

    Args:
        loaded: the model.
        split: from `open_split`.
        batch_size: rows per batch, rounded up to what the devices divide.
        max_tokens: most tokens to read; None for all.
        mask_documents: whether attention stays within documents.
        silent: show no progress.

    Raises:
        DivergedError: the loss is not finite.
    """
    bytes_per_token = loaded.tokenizer.bytes_per_token
    program = EvalProgram(loaded.model, bytes_per_token, loaded.mesh)
    rows = program.round_up(batch_size)
    batches = read_batches(
        split, loaded.context_length, rows, max_tokens, mask_documents, not silent
    )
    result = measure_perplexity(program.bind(loaded.params), batches, bytes_per_token)
    if not math.isfinite(result.loss):
        raise DivergedError(f"the loss of the model is {result.loss}; try an earlier --step")
    return {"sequence_length": loaded.context_length, **result._asdict()}
