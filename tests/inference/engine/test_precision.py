"""Weights and cache in 8 bits in the engine: a request still depends on nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import lay_out
from jaxgpt.inference.engine import Engine, Request
from jaxgpt.inference.precision import Precision
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.moe.dispatch import Dropless
from jaxgpt.model.moe.mixture_of_experts import MixtureOfExperts
from tests.inference.engine.test_engine import (
    CONFIG,
    CONTEXT,
    GREEDY,
    LONG,
    SIZE,
    VOCAB_SIZE,
    answer,
    random_request,
)

EXPERTS = MixtureOfExperts(num_experts=4, expert=SwiGlu(hidden=16), dispatch=Dropless(block_size=4))
CONFIGS = {"dense": CONFIG, "experts": replace(CONFIG, feed_forward=EXPERTS)}
INT8 = Precision(weights="int8", cache="int8")


@functools.cache
def make_decoder(name: str, precision: Precision) -> Decoder:
    model = CONFIGS[name].build(VOCAB_SIZE)
    params = meta.unbox(model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"])
    return Decoder(
        model=model,
        params=lay_out(model, precision.round(model, params)),
        stop_ids=(),
        forbidden_ids=(),
        context_length=CONTEXT,
        empty_cache=precision.empty_cache,
    )


@pytest.mark.optimized
@pytest.mark.parametrize("precision", [Precision(), INT8], ids=["model", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_request_gets_depends_on_nothing_else(name: str, precision: Precision) -> None:
    rng = np.random.default_rng(0)
    requests = [random_request(rng) for _ in range(20)]
    decoder = make_decoder(name, precision)
    # With that many slots a lone request is computed apart, where that changes no bit.
    size = replace(SIZE, num_slots=6)
    together = Engine(decoder, size)
    found = answer(together, requests)
    for request, each in zip(requests, found, strict=True):
        (alone,) = answer(Engine(decoder, size), [request])
        assert each.tokens == alone.tokens


@pytest.mark.parametrize("name", CONFIGS)
def test_it_writes_what_the_decoder_writes(name: str) -> None:
    decoder = make_decoder(name, INT8)
    prompts = [LONG[:length] for length in (1, 15, 40)]
    expected: dict[int, list[int]] = {row: [] for row in range(len(prompts))}
    for news in decoder.generate(prompts, 12, SamplingConfig(temperature=0.0)):
        for new in news:
            expected[new.row] += new.ids
    requests = [Request(prompt=prompt, max_new_tokens=12, sampling=GREEDY) for prompt in prompts]
    assert [each.ids for each in answer(Engine(decoder, SIZE), requests)] == list(expected.values())
