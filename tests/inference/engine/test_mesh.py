"""The engine on several devices that share a model: it writes what it writes on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_mesh import DecodingMesh, on_devices
from jaxgpt.inference.decoding_weights import lay_out
from jaxgpt.inference.engine import Engine, Request
from jaxgpt.inference.precision import Precision
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.training.state import abstract_parameters
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
from tests.inference.engine.test_precision import EXPERTS

DENSE = replace(CONFIG, attention=GroupedQueryAttention(num_heads=8, head_dim=4))
CASES = {
    "tensor": (DENSE, DecodingMesh(tensor=8)),
    "expert and tensor": (
        replace(CONFIG, feed_forward=EXPERTS),
        DecodingMesh(expert=4, tensor=2),
    ),
}
UNROUNDED, INT8 = Precision(), Precision(weights="int8", cache="int8")


@functools.cache
def make_decoder(name: str, is_shared: bool, precision: Precision = UNROUNDED) -> Decoder:
    config, shared = CASES[name]
    mesh, rules = (shared if is_shared else DecodingMesh()).build(), ShardingRules()
    model = config.build(VOCAB_SIZE)
    params = meta.unbox(model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"])
    if is_shared:
        places, _ = abstract_parameters(model, rules, mesh)
        params = jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), params, places)
    return Decoder(
        model=model,
        params=lay_out(model, precision.round(model, params)),
        stop_ids=(),
        forbidden_ids=(),
        context_length=CONTEXT,
        empty_cache=precision.empty_cache,
        on_devices=on_devices(mesh, rules),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_writes_what_one_device_writes_and_the_cache_is_divided_by_heads(name: str) -> None:
    prompts = [LONG[:length] for length in (1, 17, 40)]
    requests = [
        Request(prompt=prompt, max_new_tokens=9, sampling=GREEDY, score_prompt=index == 1)
        for index, prompt in enumerate(prompts)
    ]
    engine = Engine(make_decoder(name, True), SIZE)
    found = [each.ids for each in answer(engine, requests)]
    expected = answer(Engine(make_decoder(name, False), SIZE), requests)
    assert found == [each.ids for each in expected]
    slots = engine._work._state.all
    for kept_BKCH in jax.tree.leaves((slots.cache.k_BKCH, slots.cache.v_BKCH)):
        assert kept_BKCH.sharding.spec[:2] == (None, "tensor")
    for leaf in jax.tree.leaves((slots.tokens_B, slots.seen)):
        assert leaf.sharding.is_fully_replicated


@pytest.mark.parametrize("precision", [UNROUNDED, INT8], ids=["float32", "int8"])
def test_the_decoder_writes_what_one_device_writes(precision: Precision) -> None:
    drawn = [
        [
            (new.row, tuple(new.ids))
            for news in make_decoder("tensor", is_shared, precision).generate(
                [LONG[:7], LONG], 9, SamplingConfig(temperature=0.0)
            )
            for new in news
        ]
        for is_shared in (True, False)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.optimized
@pytest.mark.parametrize("name", CASES)
def test_what_a_request_gets_depends_on_nothing_else(name: str) -> None:
    rng = np.random.default_rng(0)
    requests = [random_request(rng) for _ in range(12)]
    decoder = make_decoder(name, True)
    found = answer(Engine(decoder, SIZE), requests)
    for request, each in zip(requests, found, strict=True):
        (alone,) = answer(Engine(decoder, SIZE), [request])
        assert each.tokens == alone.tokens
