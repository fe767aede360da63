"""Weights as decoding reads them: cast and laid out once, and the same numbers."""

import jax
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.inference.cpu_layout import StoredKernel, cache_dtype, head_table
from jaxgpt.inference.decoding_weights import LayerArrays, cast_weights, lay_out, restore
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cpu.small_batch_matmul import TransposedKernel
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.feed_forward import FeedForward, Gelu, SwiGlu
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.runtime.target import CompileTarget, compiling_for
from jaxgpt.training.state import abstract_parameters
from tests.model import tiny_model

EXPERTS = MixtureOfExperts(expert=SwiGlu(hidden=16), dispatch=Dropless())
# As many heads as the model is wide: which axes of a kernel are inputs cannot be told by size.
SQUARE = GptConfig(
    num_layers=2,
    d_model=8,
    attention=GroupedQueryAttention(num_heads=8, head_dim=8, qkv_bias=True),
    feed_forward=Gelu(hidden=8, use_bias=True),
)
CONFIGS = {
    "dense": tiny_model.FAMILIES["gpt2"],
    "untied": replace(SQUARE, head=LanguageModelHead(tied=False)),
    "experts": replace(SQUARE, feed_forward=EXPERTS),
}


@pytest.mark.optimized
@pytest.mark.parametrize("feed_forward", [Gelu(use_bias=True), EXPERTS], ids=["dense", "experts"])
def test_casting_the_weights_once_changes_no_score(feed_forward: FeedForward) -> None:
    config = replace(
        tiny_model.FAMILIES["gpt2"],
        compute_dtype="bfloat16",
        feed_forward=feed_forward,
        attention=GroupedQueryAttention(num_heads=4, qkv_bias=True, output_bias=True),
    )
    model = config.build(tiny_model.VOCAB_SIZE)
    tokens = tiny_model.random_tokens((1, 20))
    params = meta.unbox(model.init(jax.random.key(0), tokens)["params"])
    # Biases start at zero, where every type is exact.
    params = jax.tree.map(lambda leaf: leaf + 0.0123, params)
    cast = cast_weights(model, params)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (cast, params)]
    assert sizes[0] < 0.6 * sizes[1]
    apply = jax.jit(lambda tree: model.apply({"params": tree}, tokens)[0])
    np.testing.assert_array_equal(apply(cast), apply(params))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_laid_out_weights_are_the_parameters(config: GptConfig) -> None:
    model, params = tiny_model.init(config)
    laid_out = lay_out(model, params)
    assert isinstance(laid_out["blocks"]["attention"]["query"]["kernel"], StoredKernel)
    restored = jax.tree.map(
        lambda leaf: leaf.kernel if isinstance(leaf, TransposedKernel) else leaf,
        restore(laid_out),
        is_leaf=lambda leaf: isinstance(leaf, TransposedKernel),
    )
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_on_a_gpu_layers_are_cut_apart_and_nothing_else_changes() -> None:
    model, params = tiny_model.init(replace(SQUARE, layers=Scanned()))
    with compiling_for(CompileTarget(platform="gpu", compute_capability=9.0)):
        laid_out = lay_out(model, params)
        assert cache_dtype() is None
    assert isinstance(laid_out["blocks"]["attention"]["query"]["kernel"], LayerArrays)
    table = params["embedding"]["table"]
    assert head_table(laid_out, table) is table
    jax.tree.map(np.testing.assert_array_equal, restore(laid_out), params)


def test_layers_on_several_devices_are_cut_apart_and_stay_divided() -> None:
    model, params = tiny_model.init(SQUARE)
    mesh = make_mesh(MeshConfig(data=1, tensor=8))
    abstract, _ = abstract_parameters(model, ShardingRules(), mesh)
    placed = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), params, abstract)
    laid_out = lay_out(model, placed)
    kernel = laid_out["blocks"]["attention"]["query"]["kernel"]
    assert isinstance(kernel, LayerArrays)
    for each in kernel.arrays:
        # Its second axis are the heads.
        assert each.addressable_shards[0].data.shape == (8, 1, 8)
    jax.tree.map(np.testing.assert_array_equal, restore(laid_out), params)
