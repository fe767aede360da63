"""What is compiled before a server listens: everything that its first clients need."""

from typing import Any

import jax
import pytest

from jaxgpt.inference.engine import Engine, EngineConfig, Progress, Request
from jaxgpt.inference.engine.speculation import draft_model
from jaxgpt.inference.engine.speculation.draft_model import DraftModel
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.serving.served import CONFIG, CONTEXT, make_params, warm_up


@pytest.mark.slow
def test_neither_one_client_nor_three_wait_for_a_program(tokenizer: Tokenizer) -> None:
    model = CONFIG.build(tokenizer.vocab_size)
    params = jax.device_put(make_params(tokenizer.vocab_size), jax.devices()[0])
    decoder = make_text_decoder(model, params, tokenizer, CONTEXT)
    engine = Engine(decoder, EngineConfig(num_slots=6, prefill_chunk=16))
    warm_up(engine, tokenizer.bos_id)
    program = engine._work._decode
    num_compiled = program._cache_size()  # type: ignore[attr-defined]
    for num_clients in (1, 3):
        news: list[Progress] = []
        for _ in range(num_clients):
            request = Request(prompt=(5, 6, 7), max_new_tokens=9, seed=1 << 40, ignore_stop=True)
            engine.submit(request, news.append)
        while engine.step():
            pass
        assert sum(new.finish == "length" for new in news) == num_clients
    assert program._cache_size() == num_compiled  # type: ignore[attr-defined]


@pytest.mark.slow
def test_no_client_waits_for_a_program_that_drafts(tokenizer: Tokenizer) -> None:
    model = CONFIG.build(tokenizer.vocab_size)
    params = jax.device_put(make_params(tokenizer.vocab_size), jax.devices()[0])
    decoder = make_text_decoder(model, params, tokenizer, CONTEXT)
    size = EngineConfig(num_slots=6, prefill_chunk=16)
    twin = DraftModel(checkpoint="twin", most=2)
    engine = Engine(decoder, size, speculation=twin, open_checkpoint=lambda *_: decoder)
    warm_up(engine, tokenizer.bos_id)
    programs: list[Any] = [engine._work._verify, draft_model._read_chunk, draft_model.write_ahead]
    num_compiled = [program._cache_size() for program in programs]
    for num_clients, prompt in ((1, (5, 6, 7)), (3, (5, 6, 7) * 9)):
        news: list[Progress] = []
        for _ in range(num_clients):
            request = Request(prompt=prompt, max_new_tokens=9, seed=1 << 40, ignore_stop=True)
            engine.submit(request, news.append)
        while engine.step():
            pass
        assert sum(new.num_accepted for new in news)
    assert [program._cache_size() for program in programs] == num_compiled
