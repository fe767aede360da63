"""A smaller model that writes ahead: it changes no answer, and its twin accepts all of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.errors import MismatchError, UsageError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import lay_out
from jaxgpt.inference.engine import Engine
from jaxgpt.inference.engine.speculation.draft_model import DraftModel
from tests.inference.engine.test_engine import (
    CONFIG,
    CONTEXT,
    SIZE,
    VOCAB_SIZE,
    answer,
    make_decoder,
    random_request,
)
from tests.inference.engine.test_speculation import assert_same, free_requests


@functools.cache
def make_draft(vocab_size: int = VOCAB_SIZE) -> Decoder:
    """Return a model with other weights, whose vocabulary is padded in another way."""
    model = replace(CONFIG, num_layers=1, vocab_multiple=8).build(vocab_size)
    params = meta.unbox(model.init(jax.random.key(4), jnp.zeros((1, 4), jnp.int32))["params"])
    return Decoder(
        model=model,
        params=lay_out(model, params),
        stop_ids=(),
        forbidden_ids=(),
        context_length=CONTEXT,
    )


def make_engine(draft: Decoder) -> Engine:
    speculation = DraftModel(checkpoint="small", step="7", most=3)
    asked = []

    def open_checkpoint(place: str, step: str) -> Decoder:
        asked.append((place, step))
        return draft

    engine = Engine(make_decoder(), SIZE, speculation=speculation, open_checkpoint=open_checkpoint)
    assert asked == [("small", "7")]
    return engine


@pytest.mark.slow
def test_a_model_with_other_weights_changes_no_answer() -> None:
    rng = np.random.default_rng(1)
    # Long prompts among them, which the model that drafts reads in many chunks.
    requests = [random_request(rng) for _ in range(9)]
    expected = answer(Engine(make_decoder(), SIZE), requests)
    engine = make_engine(make_draft())
    assert_same(answer(engine, requests), expected)
    counts = engine.counts()
    assert counts.accepted_tokens < counts.drafted_tokens
    # In the same slots, whose caches hold what the requests before had drafted.
    assert_same(answer(engine, requests[::-1]), expected[::-1])


@pytest.mark.slow
def test_what_its_twin_draws_is_right_also_at_random() -> None:
    requests = free_requests(3)
    engine = make_engine(make_decoder())
    assert_same(answer(engine, requests), answer(Engine(make_decoder(), SIZE), requests))
    counts = engine.counts()
    assert counts.accepted_tokens == counts.drafted_tokens > 0


def test_models_that_cannot_draft_are_refused() -> None:
    with pytest.raises(MismatchError, match="drafts has 60 ids and the one that verifies 61"):
        make_engine(make_draft(60))
    with pytest.raises(UsageError, match="small: this engine was given nothing that opens"):
        Engine(make_decoder(), SIZE, speculation=DraftModel(checkpoint="small"))
