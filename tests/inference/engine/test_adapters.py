"""Each request has its adapter: it gets what the merged model gives, and no other request's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import lay_out
from jaxgpt.inference.engine import Engine, EngineConfig, Request
from jaxgpt.inference.engine.request import RequestError
from jaxgpt.inference.engine.slots.adapters import DecoderAdapter
from jaxgpt.model.adapted import join, merge, split
from jaxgpt.model.layers.adapters import Lora
from jaxgpt.model.stacked_adapters import TrainedAdapter
from tests.inference.engine.test_engine import (
    BOS,
    CONFIG,
    EOS,
    GREEDY,
    LONG,
    PAD,
    SIZE,
    VOCAB_SIZE,
    Answer,
    answer,
    make_decoder,
    random_request,
)

# Ends texts of the last adapter; the others never draw it.
END = 3
ADAPTERS = (
    Lora(rank=3, alpha=5.0),
    Lora(rank=5, alpha=4.0, rank_stabilized=True, targets=("value", "down")),
    Lora(rank=2, alpha=3.0, token_ids=(END, 40)),
    Lora(rank=1, alpha=1.0, targets=("query",), token_ids=(40, 7)),
)


@functools.cache
def make_adapter(number: int) -> DecoderAdapter:
    """Return an adapter with random numbers of a size that changes what is drawn."""
    adapter = ADAPTERS[number - 1]
    model = CONFIG.build(VOCAB_SIZE, adapter)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    own, _ = split(meta.unbox(shapes["params"]), adapter.is_trainable)
    rng = np.random.default_rng(number)
    own = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32), own)
    ends = number == len(ADAPTERS)
    stop_ids, forbidden_ids = ((END, EOS), (PAD, BOS)) if ends else ((EOS,), (PAD, BOS, END))
    return DecoderAdapter(TrainedAdapter(adapter, own), stop_ids, forbidden_ids)


def make_base() -> Decoder:
    return dataclasses.replace(make_decoder(), forbidden_ids=(PAD, BOS, END))


def make_engine(size: EngineConfig = SIZE) -> Engine:
    adapters = [make_adapter(number) for number in range(1, len(ADAPTERS) + 1)]
    return Engine(make_base(), size, adapters)


def merged_decoder(number: int) -> Decoder:
    """Return a decoder of the model with an adapter merged into it."""
    model = CONFIG.build(VOCAB_SIZE)
    params = meta.unbox(model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"])
    (adapter, own), stop_ids, forbidden_ids = make_adapter(number)
    params = merge(CONFIG.build(VOCAB_SIZE, adapter), join(params, own))
    return dataclasses.replace(
        make_base(),
        params=lay_out(model, params),
        stop_ids=stop_ids,
        forbidden_ids=forbidden_ids,
    )


def scores(found: Answer) -> np.ndarray:
    """Return the log-probabilities of a prompt's and an answer's tokens."""
    tokens = [*found.progress[0].prompt[1:], *found.tokens]
    return np.array([token.log_probability for token in tokens])


def test_each_adapter_gives_what_the_merged_model_gives() -> None:
    request = Request(
        prompt=(*LONG[:20], END, 7), max_new_tokens=12, sampling=GREEDY, score_prompt=True
    )
    numbers = range(len(ADAPTERS) + 1)
    requests = [dataclasses.replace(request, adapter=number) for number in numbers]
    found = answer(make_engine(), requests)
    decoders = [make_base(), *map(merged_decoder, numbers[1:])]
    for decoder, ours in zip(decoders, found, strict=True):
        (theirs,) = answer(Engine(decoder, SIZE), [request])
        assert ours.ids == theirs.ids
        np.testing.assert_allclose(scores(ours), scores(theirs), atol=1e-5)
    # Each of them is another model.
    assert len({each.progress[0].prompt[5].log_probability for each in found}) == len(found)


@pytest.mark.optimized
def test_what_a_request_gets_depends_on_no_other_and_on_no_other_adapter() -> None:
    rng = np.random.default_rng(1)
    requests = [
        dataclasses.replace(random_request(rng), adapter=int(rng.integers(len(ADAPTERS) + 1)))
        for _ in range(24)
    ]
    # With that many slots a lone request is computed apart, where this CPU gives the same bits.
    size = dataclasses.replace(SIZE, num_slots=6)
    together = make_engine(size)
    found = answer(together, requests)
    assert together.counts().reused_tokens > 30
    for request, ours in zip(requests, found, strict=True):
        (alone,) = answer(make_engine(size), [request])
        assert ours.tokens == alone.tokens
        assert repr(ours.progress[0].prompt) == repr(alone.progress[0].prompt)
        if not request.adapter:
            # Bit for bit what an engine without adapters gives.
            (plain,) = answer(Engine(make_base(), size), [request])
            assert ours.tokens == plain.tokens


def test_no_adapter_gets_keys_and_values_of_another() -> None:
    engine = make_engine()
    request = Request(prompt=LONG, max_new_tokens=6, sampling=GREEDY)
    reused = {}
    for number in (1, 0, 2, 1, 0):
        mine = dataclasses.replace(request, adapter=number)
        (found,) = answer(engine, [mine])
        (fresh,) = answer(make_engine(), [mine])
        assert found.ids == fresh.ids
        reused.setdefault(number, []).append(found.progress[0].num_reused)
    # Each finds what it has read itself, and nothing else.
    assert reused == {1: [0, 32], 0: [0, 32], 2: [0]}


def test_an_answer_ends_where_texts_of_its_own_adapter_end() -> None:
    last = len(ADAPTERS)
    request = Request(prompt=(5,), max_new_tokens=5, sampling=GREEDY, bias={END: 100.0})
    requests = [dataclasses.replace(request, adapter=number) for number in (0, 1, last)]
    base, first, ending = answer(make_engine(), requests)
    assert (ending.ids, ending.finish) == ([], "stop")
    for found in (base, first):
        assert found.ids
        assert END not in found.ids


def test_an_adapter_that_is_not_there_is_refused() -> None:
    request = Request(prompt=(5,), max_new_tokens=1, adapter=1)
    with pytest.raises(RequestError, match=r"adapter = 1; .* up to 0, and 0 is the model alone"):
        Engine(make_decoder(), SIZE).submit(request, Answer())
