"""Loss, perplexity and bits per byte over a stream of batches: periodic evaluation and `eval`.

Sums and weights only; the jitted step that scores a batch, and where its arrays live, are the
caller's. Sums over batches are kept in float64 on the host, and divided once.

Axes: B rows, T tokens of a row.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.batch import Batch

# Scores one batch: (sum of weighted losses in nats, sum of weights), scalars, perhaps still on
# their way from the device.
EvalStep = Callable[[Batch], tuple[Any, Any]]


class Perplexity(NamedTuple):
    """Score of a model on some text.

    Attributes:
        loss: mean negative log-likelihood of a predicted token, in nats.
        perplexity: exp(loss); infinity where that is beyond a float.
        bits_per_byte: total negative log-likelihood in bits over the bytes of text that the
            predicted tokens stand for. Unlike the loss, comparable between tokenizers.
        tokens: how many tokens were predicted.
        bytes: how many bytes of text they stand for; a document's end stands for none.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int


def measure_perplexity(
    eval_step: EvalStep, batches: Iterable[Batch], bytes_per_token: np.ndarray
) -> Perplexity:
    """Score all `batches` and return the figures over all their predicted tokens.

    Args:
        eval_step: called once a batch, in order. The result of a batch is read while the next
            one is being computed.
        batches: host arrays; on several hosts, the same global batches on each.
        bytes_per_token: int [vocab_size], from the tokenizer.

    Raises:
        ValueError: no token is predicted in any batch.
    """
    sums = np.zeros(2)
    num_tokens = num_bytes = 0
    in_flight: tuple[Any, Any] | None = None
    for batch in batches:
        result = eval_step(batch)
        if in_flight is not None:
            sums += _read(in_flight)
        in_flight = result
        predicted_BT = np.asarray(batch.loss_weights_BT) > 0
        num_tokens += int(predicted_BT.sum())
        num_bytes += int(bytes_per_token[np.asarray(batch.targets_BT)[predicted_BT]].sum())
    if in_flight is not None:
        sums += _read(in_flight)
    loss_sum, weight_sum = sums.tolist()
    if weight_sum == 0:
        raise ValueError("the batches predict no token")
    return from_sums(loss_sum, weight_sum, num_tokens, num_bytes)


def from_sums(loss_sum: float, weight_sum: float, num_tokens: int, num_bytes: int) -> Perplexity:
    """Return the figures for a sum of losses in nats over tokens and the bytes they stand for.

    Bits per byte are infinite where the tokens stand for no bytes at all.
    """
    loss = loss_sum / weight_sum
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    bits = loss * num_tokens / math.log(2)
    return Perplexity(
        loss=loss,
        perplexity=perplexity,
        bits_per_byte=bits / num_bytes if num_bytes else math.inf,
        tokens=num_tokens,
        bytes=num_bytes,
    )


def _read(result: tuple[Any, Any]) -> np.ndarray:
    """Wait for a batch's sums and bring them to the host, float64 [2]."""
    return np.array([float(value) for value in result])
