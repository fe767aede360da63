"""Adapters of requests where the model is shared by devices, or its weights and cache are int8."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_mesh import DecodingMesh, on_devices
from jaxgpt.inference.decoding_weights import lay_out
from jaxgpt.inference.engine import Engine, Request
from jaxgpt.inference.precision import Precision
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.adapted import join
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.training.state import abstract_parameters
from tests.inference.engine.test_adapters import (
    ADAPTERS,
    END,
    make_adapter,
    make_base,
    scores,
)
from tests.inference.engine.test_engine import (
    CONFIG,
    GREEDY,
    LONG,
    SIZE,
    VOCAB_SIZE,
    Answer,
    answer,
)

UNROUNDED, INT8 = Precision(), Precision(weights="int8", cache="int8")
NUMBERS = range(len(ADAPTERS) + 1)


def make_params() -> Any:
    model = CONFIG.build(VOCAB_SIZE)
    return meta.unbox(model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"])


def make_decoder(mesh: DecodingMesh, precision: Precision) -> Decoder:
    model, built, rules = CONFIG.build(VOCAB_SIZE), mesh.build(), ShardingRules()
    params = make_params()
    if mesh.tensor > 1:
        places, _ = abstract_parameters(model, rules, built)
        params = jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), params, places)
    return dataclasses.replace(
        make_base(),
        params=lay_out(model, precision.round(model, params)),
        empty_cache=precision.empty_cache,
        on_devices=on_devices(built, rules),
    )


def requests() -> list[Request]:
    request = Request(
        prompt=(*LONG[:20], END, 7),
        max_new_tokens=12,
        sampling=GREEDY,
        score_prompt=True,
        top_tokens=2,
    )
    return [dataclasses.replace(request, adapter=number) for number in NUMBERS]


def margin(found: Answer) -> float:
    """Return how far the likeliest token is before the second one, at least."""
    tops = [[score for _, score in token.top] for token in found.tokens]
    return min(first - second for first, second in tops)


def make_engine(decoder: Decoder) -> Engine:
    return Engine(decoder, SIZE, [make_adapter(number) for number in NUMBERS[1:]])


@pytest.mark.slow
def test_devices_that_share_a_model_give_what_one_gives() -> None:
    shared, single = (
        answer(make_engine(make_decoder(DecodingMesh(tensor=tensor), UNROUNDED)), requests())
        for tensor in (2, 1)
    )
    for ours, theirs in zip(shared, single, strict=True):
        assert margin(theirs) > 2e-4, "a tie would prove nothing"
        assert ours.ids == theirs.ids
        np.testing.assert_allclose(scores(ours), scores(theirs), atol=1e-4)
    assert len({tuple(each.ids) for each in single}) > 3


def test_an_adapter_is_added_to_a_base_in_8_bits() -> None:
    decoder = make_decoder(DecodingMesh(), INT8)
    found = answer(make_engine(decoder), requests())
    for number in NUMBERS:
        (alone,) = answer(make_engine(decoder), [requests()[number]])
        assert alone.ids == found[number].ids
    assert margin(found[2]) > 2e-4, "a tie would prove nothing"
    # The model of training with an adapter that changes no rows of tokens, whose base is rounded.
    (adapter, own), stop_ids, forbidden_ids = make_adapter(2)
    apart = dataclasses.replace(
        decoder,
        model=CONFIG.build(VOCAB_SIZE, adapter),
        params=join(INT8.round(CONFIG.build(VOCAB_SIZE), make_params()), own),
        stop_ids=stop_ids,
        forbidden_ids=forbidden_ids,
    )
    drawn = apart.generate([requests()[0].prompt], 12, SamplingConfig(temperature=0.0))
    assert found[2].ids == [id for (new,) in drawn for id in new.ids]
    assert len({tuple(each.ids) for each in found}) > 3
