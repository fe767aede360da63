"""Weights in 8 bits: which they are, how near they come, and that layers use them as any other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import cast_weights, lay_out, restore
from jaxgpt.inference.int8_weights import round_weights
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.int8 import Int8Kernel
from tests.model import tiny_model

# As many heads as the model is wide: which axes of a kernel are inputs cannot be told by size.
SQUARE = GptConfig(
    num_layers=2,
    d_model=8,
    attention=GroupedQueryAttention(num_heads=8, head_dim=8, qkv_bias=True),
    head=LanguageModelHead(tied=False),
)
CONFIGS = {
    "tied": tiny_model.FAMILIES["gpt2"],
    "untied": SQUARE,
    "capacity": tiny_model.VARIANTS["experts, capacity"],
    "dropless": replace(tiny_model.VARIANTS["experts, dropless"], layers=Scanned()),
}
# Axes that a product adds up, behind those of layers and experts.
TO_WIDTH = {"output": (0, 1), "down": (0,)}


def restore_all(params: Any) -> Any:
    """Return the numbers that rounded parameters stand for."""

    def restored(path: tuple[Any, ...], leaf: Any) -> Any:
        if not isinstance(leaf, Int8Kernel):
            return leaf
        keys = [key.key for key in path]
        stacked = (keys[0] == "blocks") + ("experts" in keys)
        inputs = (1,) if keys[-1] == "table" else TO_WIDTH.get(keys[-2], (0,))
        return leaf.codes * jnp.expand_dims(leaf.scales, tuple(stacked + axis for axis in inputs))

    is_rounded = lambda leaf: isinstance(leaf, Int8Kernel)  # noqa: E731
    return jax.tree_util.tree_map_with_path(restored, params, is_leaf=is_rounded)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layers_use_rounded_weights_as_the_numbers_that_they_stand_for(config: GptConfig) -> None:
    model, params = tiny_model.init(config, scale=0.1)
    rounded = round_weights(model, params)
    restored = restore_all(rounded)
    for (path, leaf), near in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(restored), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if ("kernel" in name and "router" not in name) or "table" in name:
            assert 0 < np.abs(near - leaf).max() <= np.abs(leaf).max() / 254 * 1.001, name
        else:
            assert near is leaf, name
    tokens = tiny_model.random_tokens((2, 9))
    apply = jax.jit(lambda params: model.apply({"params": params}, tokens)[0])
    found, expected = apply(rounded), apply(restored)
    # What is left is the rounding of the activations.
    found, expected = found[..., :50], expected[..., :50]
    assert np.abs(found - expected).max() < 0.1 * expected.std()
    jax.tree.map(np.testing.assert_array_equal, round_weights(model, rounded), rounded)


@pytest.mark.parametrize("name", ["tied", "dropless"])
def test_a_decoder_lays_them_out_and_writes_what_the_model_writes(name: str) -> None:
    config = replace(CONFIGS[name], position=replace(tiny_model.PLAIN).position)
    model, params = tiny_model.init(config)
    rounded = round_weights(model, params)
    laid_out = lay_out(model, cast_weights(model, rounded))
    jax.tree.map(np.testing.assert_array_equal, restore(laid_out), rounded)
    num_bytes = [sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (laid_out, params)]
    assert num_bytes[0] < 0.4 * num_bytes[1]
    decoder = Decoder(
        model=model, params=laid_out, stop_ids=(), forbidden_ids=(), context_length=32
    )
    prompt, drawn = [3, 1, 4, 1, 5], []
    for (new,) in decoder.generate([prompt], 6, SamplingConfig(temperature=0.0)):
        drawn += new.ids
    ids = jnp.asarray([prompt + drawn])
    logits, _ = jax.jit(model.apply)({"params": rounded}, ids)
    assert drawn == np.argmax(logits[0, 4:-1], axis=-1).tolist()
