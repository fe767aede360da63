"""The type in which a bfloat16 model decodes faster on this CPU, found by a short trial.

bfloat16 halves what a step reads, but processors without instructions for it convert each number.
Only the machine can tell what outweighs the other.

Axes: L layers, D width, F four times the width.
"""

import functools
import logging
import math
import time

import jax
import jax.numpy as jnp
from jax import Array

from jaxgpt.model.cpu.small_batch_matmul import TransposedKernel
from jaxgpt.model.gpt import Dtype, Gpt
from jaxgpt.model.layers.matmul import project
from jaxgpt.runtime.target import compile_target

logger = logging.getLogger(__name__)

# The model's own type has to be this much slower: equal starts are to choose alike.
_WORTH = 1.5
# Parameters that are multiplied: more than a processor's caches hold.
_MOST_PARAMETERS = 1 << 24
# With fewer, either type is fast, and what is measured is noise.
_FEWEST_PARAMETERS = 1 << 19
_ROUNDS = 20


def choose_dtype(model: Gpt) -> Dtype:
    """Return the type to decode in: the model's own, or float32 for a bfloat16 model on a CPU.

    A float32 model stays one: bfloat16 would change what it computes.
    """
    own = model.config.compute_dtype
    if own == "float32" or not compile_target().is_cpu:
        return own
    # A layer of a very wide model alone would be more than that.
    width = min(model.config.d_model, math.isqrt(_MOST_PARAMETERS // 8))
    of_a_layer = 8 * width**2
    layers = max(1, min(_MOST_PARAMETERS // of_a_layer, model.config.num_layers))
    if layers * of_a_layer < _FEWEST_PARAMETERS:
        return own
    ratio = time_ratio(width, layers, own)
    if ratio < _WORTH:
        return own
    logger.info("computing in float32, %.1f times as fast here as the model's %s", ratio, own)
    return "float32"


@functools.cache
def time_ratio(width: int, num_layers: int, dtype: Dtype) -> float:
    """Return the time of one token's feed-forward layers in a type over that in float32.

    Both take turns, and the least of each counts: other work on the machine slows both down.
    """
    sides = {each: _make_layers(width, num_layers, each) for each in (dtype, "float32")}
    least = dict.fromkeys(sides, float("inf"))
    for layers in sides.values():
        # Compiles.
        _feed_forward(layers, jnp.ones((1, width), layers[0][0].dtype)).block_until_ready()
    for _ in range(_ROUNDS):
        for side, layers in sides.items():
            x_1D = jnp.ones((1, width), side)
            start = time.perf_counter()
            _feed_forward(layers, x_1D).block_until_ready()
            least[side] = min(least[side], time.perf_counter() - start)
    return least[dtype] / least["float32"]


def _make_layers(width: int, num_layers: int, dtype: Dtype) -> list[tuple[Array, Array]]:
    """Return kernels, each an array of its own with its outputs first, as decoding has them."""
    shape_FD, shape_DF = (4 * width, width), (width, 4 * width)
    return [
        (jnp.full(shape_FD, 1 / width, dtype), jnp.full(shape_DF, 0.25 / width, dtype))
        for _ in range(num_layers)
    ]


@jax.jit
def _feed_forward(layers: list[tuple[Array, Array]], x_1D: Array) -> Array:
    def multiply(kernel_OI: Array, x_1I: Array) -> Array:
        y_1O = project(x_1I, TransposedKernel(kernel_OI.T), is_rounded=True)
        return y_1O.astype(x_1I.dtype)

    for up_FD, down_DF in layers:
        x_1D = multiply(down_DF, multiply(up_FD, x_1D))
    return x_1D
