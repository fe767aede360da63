"""Cost of a model: parameters, operations and bytes, as integers from its config.

Nothing is computed on a device. Axes: D model, V padded vocabulary, L layers.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.model.gpt import Dtype, GptConfig, make_cache
from jaxgpt.model.layer_stack import Scanned


@functools.lru_cache(maxsize=64)
def _boxed_params(config: GptConfig, vocab_size: int) -> Any:
    """Return shapes and dtypes of the parameters, with the names of their axes."""
    # The tree is the same either way; a loop is quicker to trace.
    model = replace(config, layers=Scanned()).build(vocab_size)
    tokens_BT = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]


def abstract_params(config: GptConfig, vocab_size: int) -> Any:
    """Return the parameters' tree with shapes and dtypes in place of arrays."""
    return meta.unbox(_boxed_params(config, vocab_size))


def num_parameters(config: GptConfig, vocab_size: int) -> int:
    """Number of parameters, the padding of the vocabulary included."""
    leaves = jax.tree.leaves(abstract_params(config, vocab_size))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def num_active_parameters(config: GptConfig, vocab_size: int) -> int:
    """Number of parameters that one token goes through: of experts, those that are chosen."""
    return sum(_count_active(config, vocab_size).values())


def num_matmul_parameters(config: GptConfig, vocab_size: int) -> int:
    """Number of parameters that multiply every token: kernels, and a tied table as the head.

    An embedding table that is only looked up, norms and biases do not count, nor do the experts
    that a token has not chosen.
    """
    active = _count_active(config, vocab_size)
    kernels = [size for path, size in active.items() if path[-1].key == "kernel"]
    return sum(kernels) + config.head.num_tied_parameters(
        config.d_model, config.pad_vocab(vocab_size)
    )


def _count_active(config: GptConfig, vocab_size: int) -> dict[Any, int]:
    """Return the sizes of the parameters by path; of stacked experts, those that are chosen."""
    num_experts, num_active = config.feed_forward.count_experts() or (1, 1)
    boxed = jax.tree.leaves_with_path(
        _boxed_params(config, vocab_size), is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata)
    )
    sizes = {}
    for path, leaf in boxed:
        size = math.prod(meta.unbox(leaf).shape)
        sizes[path] = size * num_active // num_experts if "expert" in leaf.names else size
    return sizes


def flops_per_token(config: GptConfig, vocab_size: int, sequence_length: int) -> int:
    """Return operations per token of a training step, forward and backward, not recomputed ones.

    `6 N + 12 L (N_heads H) T`, with N the matmul parameters (Chowdhery et al. 2022, appendix B):
    nominal, since causality is not discounted; a window shortens T for its layers. Slots of experts
    beyond an even load, and experts computed again, do not count.
    """
    weights = 2 * num_matmul_parameters(config, vocab_size)
    scores = config.attention.count_score_flops(config.d_model, config.num_layers, sequence_length)
    return 3 * (weights + scores)


def kv_bytes_per_token(config: GptConfig, dtype: Dtype | None = None) -> int:
    """Return the cache's bytes per token, over all layers; `dtype` as for `make_cache`."""
    cache = jax.eval_shape(lambda: make_cache(config, 1, 1, dtype))
    leaves = jax.tree.leaves((cache.k_BKCH, cache.v_BKCH))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
