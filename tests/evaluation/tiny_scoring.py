"""A tiny model with random parameters and a tokenizer of its own, ready to score text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.model.tiny_model import PLAIN
from tests.tiny import make_texts


@functools.cache
def make_tokenizer() -> Tokenizer:
    """A tokenizer of the toy language, with some pieces that are longer than a byte."""
    return train_tokenizer(make_texts(100), TokenizerConfig(vocab_size=320))


@functools.cache
def load_tiny(
    mesh: Mesh | None = None, context_length: int = 32, config: GptConfig = PLAIN, seed: int = 0
) -> LoadedModel:
    """The model with its parameters; seeds differ in parameters alone."""
    tokenizer = make_tokenizer()
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        abstract_params(config, tokenizer.vocab_size),
    )
    model = config.build(tokenizer.vocab_size)
    return LoadedModel(model, params, tokenizer, mesh or single_device_mesh(), context_length)
