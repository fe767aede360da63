"""The engine: what a request gets depends on nothing else, and every slot comes back."""

import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgpt.config import replace
from jaxgpt.errors import JaxgptError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.decoding_weights import lay_out
from jaxgpt.inference.engine import (
    Engine,
    EngineConfig,
    Progress,
    QueueFullError,
    Request,
    RequestSampling,
)
from jaxgpt.inference.engine.request import ClosedError, RequestError, pack_mask
from jaxgpt.inference.engine.running import Ticket
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.layers.projection import Initialization

VOCAB_SIZE = 61
PAD, BOS, EOS = 0, 1, 2
CONTEXT = 300
# Large initial weights, so that choices are clear and depend on the whole context.
CONFIG = GptConfig(
    num_layers=2,
    d_model=32,
    attention=GroupedQueryAttention(num_heads=4, num_kv_heads=2),
    initialization=Initialization(std=0.3),
)
SIZE = EngineConfig(num_slots=4, prefill_chunk=16, steps_per_visit=3)
GREEDY = RequestSampling(temperature=0.0)
LONG = tuple(range(5, 50))


@functools.cache
def make_decoder(config: GptConfig = CONFIG) -> Decoder:
    model = config.build(VOCAB_SIZE)
    params = meta.unbox(model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"])
    return Decoder(
        model=model,
        params=lay_out(model, params),
        stop_ids=(EOS,),
        forbidden_ids=(PAD, BOS),
        context_length=CONTEXT,
    )


class Answer:
    """Collects what one request gains."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        assert self.finish is None, "nothing comes after the end"
        self.progress.append(progress)

    @property
    def finish(self) -> str | None:
        return self.progress[-1].finish if self.progress else None

    @property
    def tokens(self) -> tuple[Any, ...]:
        return tuple(token for each in self.progress for token in each.tokens)

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def answer(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    answers = [Answer() for _ in requests]
    for request, each in zip(requests, answers, strict=True):
        engine.submit(request, each)
    while engine.step():
        pass
    assert engine.counts().running == engine.counts().waiting == 0
    return answers


def solo(request: Request, size: EngineConfig = SIZE) -> Answer:
    return answer(Engine(make_decoder(), size), [request])[0]


def random_request(rng: np.random.Generator) -> Request:
    # Some are longer than a block of the cache.
    prompt = (LONG * 5)[: rng.choice([rng.integers(0, 45), rng.integers(0, 225)])] + tuple(
        rng.integers(3, VOCAB_SIZE, rng.integers(1, 5))
    )
    sampling = RequestSampling(
        temperature=float(rng.choice([0, 0.7, 1.3])),
        top_k=int(rng.integers(1, 9)) if rng.random() < 0.3 else None,
        top_p=float(rng.choice([1, 0.8])),
        min_p=float(rng.choice([0, 0.05])),
        repetition_penalty=float(rng.choice([1, 1.3])),
        frequency_penalty=float(rng.choice([0, 0.5])),
        presence_penalty=float(rng.choice([0, 0.5])),
        min_new_tokens=int(rng.choice([0, 4])),
        dry_multiplier=float(rng.choice([0, 0, 2])),
        dry_allowed_length=1,
        xtc_probability=float(rng.choice([0, 0, 0.5])),
    )
    return Request(
        prompt=tuple(map(int, prompt)),
        max_new_tokens=int(rng.integers(1, 15)),
        sampling=sampling,
        seed=int(rng.integers(2**40)),
        breakers=(9,),
        bias={7: 2.0, 8: -math.inf} if rng.random() < 0.3 else {},
        ignore_stop=bool(rng.random() < 0.3),
        top_tokens=int(rng.choice([0, 0, 3])),
        score_prompt=bool(rng.random() < 0.2),
    )


@pytest.mark.optimized
def test_what_a_request_gets_depends_on_nothing_else() -> None:
    # With that many slots a lone request is computed apart, where this CPU gives the same bits.
    rng, size = np.random.default_rng(0), replace(SIZE, num_slots=6)
    requests = [random_request(rng) for _ in range(60)]
    together = Engine(make_decoder(), size)
    found = answer(together, requests)
    counts = together.counts()
    assert counts.reused_tokens > 100
    assert counts.prompt_tokens == sum(len(request.prompt) for request in requests)
    for request, each in zip(requests, found, strict=True):
        alone = solo(request, size)
        # Ids, scores and likeliest tokens, to the last bit.
        assert each.tokens == alone.tokens
        assert each.finish == alone.finish
        assert repr(each.progress[0].prompt) == repr(alone.progress[0].prompt)
        assert 8 not in each.ids or not request.bias
    if not together._work._has_few:
        pytest.skip("all of it holds, but this CPU has other bits for few rows: none were apart")


ALL_SETTINGS = {
    "temperature": 1.3, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1,
    "dry_multiplier": 2.0, "dry_allowed_length": 1, "dry_penalty_last_n": 30,
    "xtc_probability": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (replace(CONFIG, position=Learned(max_length=CONTEXT)), {"temperature": 0.8}),
        (CONFIG, ALL_SETTINGS),
    ],
    ids=["plain", "all settings"],
)
def test_it_writes_what_the_decoder_writes(config: GptConfig, settings: dict[str, Any]) -> None:
    decoder = make_decoder(config)
    engine = Engine(decoder, SIZE)
    prompts = [LONG[:length] for length in (1, 15, 17, 40)]
    expected: dict[int, list[int]] = {row: [] for row in range(len(prompts))}
    sampling = SamplingConfig(**settings)
    for news in decoder.generate(prompts, 24, sampling, seed=5, breakers=(9,)):
        for new in news:
            expected[new.row] += new.ids
    how: dict[str, Any] = {"sampling": RequestSampling(**settings), "breakers": (9,)}
    requests = [
        Request(prompt=prompt, max_new_tokens=24, seed=5, row=row, **how)
        for row, prompt in enumerate(prompts)
    ]
    assert [each.ids for each in answer(engine, requests)] == list(expected.values())


def test_scores_are_those_of_the_whole_forward_pass() -> None:
    decoder = make_decoder()
    request = Request(
        prompt=LONG, max_new_tokens=6, sampling=GREEDY, top_tokens=4, score_prompt=True
    )
    found = solo(request)
    prompt = found.progress[0].prompt
    tokens = [*prompt, *found.tokens]
    assert [token.id for token in tokens] == [*LONG, *found.ids]
    params = meta.unbox(
        decoder.model.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32))["params"]
    )
    ids = np.array([[token.id for token in tokens]])
    logits, _ = decoder.model.apply({"params": params}, ids)  # type: ignore[misc]
    expected = np.asarray(jax.nn.log_softmax(logits[0]))
    assert math.isnan(prompt[0].log_probability)
    assert not prompt[0].top
    for place, token in enumerate(tokens[1:]):
        assert token.log_probability == pytest.approx(expected[place, token.id], abs=1e-4)
        assert len(token.top) == 4
        best = np.sort(expected[place])[::-1][:4]
        np.testing.assert_allclose([score for _, score in token.top], best, atol=1e-4)


def test_a_prompt_alone_is_scored() -> None:
    request = Request(prompt=LONG[:20], max_new_tokens=0, score_prompt=True)
    found = solo(request)
    assert (found.finish, found.tokens) == ("length", ())
    assert len(found.progress[0].prompt) == 20


def test_an_answer_ends_at_a_stop_token_unless_it_is_ignored() -> None:
    # The bias makes the end the likeliest token.
    request = Request(prompt=(5,), max_new_tokens=9, sampling=GREEDY, bias={EOS: 100.0})
    found = solo(request)
    assert (found.ids, found.finish) == ([], "stop")
    later = replace(GREEDY, min_new_tokens=4)
    found = solo(Request(prompt=(5,), max_new_tokens=9, sampling=later, bias={EOS: 100.0}))
    assert (len(found.ids), found.finish) == (4, "stop")
    found = solo(
        Request(prompt=(5,), max_new_tokens=9, sampling=GREEDY, bias={EOS: 100.0}, ignore_stop=True)
    )
    assert (len(found.ids), found.finish) == (9, "length")
    assert EOS not in found.ids


def test_what_a_prompt_says_is_not_said_again() -> None:
    # Greedy, since a penalty of repeated sequences holds there too.
    request = Request(prompt=LONG * 2, max_new_tokens=40, sampling=GREEDY, ignore_stop=True)
    free = solo(request).ids
    dry = replace(GREEDY, dry_multiplier=1000.0, dry_allowed_length=1)
    found = solo(dataclasses.replace(request, sampling=dry)).ids
    pairs = list(itertools.pairwise([*request.prompt, *found]))
    new = pairs[len(request.prompt) - 1 :]
    assert len(set(new)) == len(new)
    assert not set(new) & set(pairs[: len(request.prompt) - 1])
    assert found != free


class Spell:
    """Lets a request draw given tokens only, then anything, then ends it."""

    def __init__(self, ids: Sequence[int], then: int) -> None:
        self._left = list(ids)
        self._then = then

    def fill(self, allowed_W: np.ndarray) -> bool:
        if not self._left:
            return False
        allowed_V = np.arange(VOCAB_SIZE) == self._left[0]
        allowed_W[:] = 0
        packed = pack_mask(allowed_V)
        allowed_W[: len(packed)] = packed
        return True

    def horizon(self) -> int:
        return VOCAB_SIZE

    def advance(self, token: int) -> bool:
        if self._left:
            assert token == self._left.pop(0)
            return False
        self._then -= 1
        return not self._then


@pytest.mark.optimized
def test_a_constraint_binds_its_own_request_alone() -> None:
    free = Request(prompt=LONG[:9], max_new_tokens=12, seed=3)
    bound = Request(prompt=(9,), max_new_tokens=30, constraint=Spell([33, 60, 4], then=5))
    found = answer(Engine(make_decoder(), SIZE), [bound, free])
    assert found[0].ids[:3] == [33, 60, 4]
    assert (len(found[0].ids), found[0].finish) == (8, "stop")
    assert found[1].tokens == solo(free).tokens


def test_requests_wait_and_too_many_are_refused() -> None:
    engine = Engine(make_decoder(), replace(SIZE, max_waiting=2))
    request = Request(prompt=(5, 6), max_new_tokens=3, ignore_stop=True)
    answers = [Answer() for _ in range(SIZE.num_slots + 2)]
    for each in answers:
        engine.submit(request, each)
    with pytest.raises(QueueFullError, match="wait already; try again"):
        engine.submit(request, Answer())
    while engine.step():
        pass
    assert [each.finish for each in answers] == ["length"] * len(answers)
    engine.submit(request, Answer())


def test_a_cancelled_request_frees_its_slot() -> None:
    engine = Engine(make_decoder(), SIZE)
    endless = Request(prompt=(5, 6), max_new_tokens=50, ignore_stop=True)
    short = Request(prompt=(5, 6), max_new_tokens=2, ignore_stop=True)
    answers = [Answer() for _ in range(SIZE.num_slots + 2)]
    tickets = [engine.submit(endless, each) for each in answers[:-1]]
    engine.submit(short, answers[-1])
    for _ in range(SIZE.num_slots):
        engine.step()
    assert (engine.counts().running, engine.counts().waiting) == (SIZE.num_slots, 2)
    for ticket in tickets:
        engine.cancel(ticket)
    while engine.step():
        pass
    assert [each.finish for each in answers] == ["cancelled"] * len(tickets) + ["length"]
    assert engine.counts().finished == {"cancelled": len(tickets), "length": 1}
    # What it had drawn by then is what it would have drawn anyway.
    assert answers[0].ids
    assert not answers[-2].ids
    assert answers[0].ids == solo(endless).ids[: len(answers[0].ids)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ()}, "the prompt has no token"),
        ({"prompt": (VOCAB_SIZE,)}, "the prompt has the id 61; the model has ids from 0 to 60"),
        ({"bias": {-1: 1.0}}, "bias has the id -1"),
        ({"max_new_tokens": 299}, "has 3 tokens and 299 are to be drawn; .* context holds 300"),
        ({"max_new_tokens": -1}, "max_new_tokens = -1"),
        ({"max_new_tokens": 0}, "no token is to be drawn"),
        ({"top_tokens": 21}, "allowed: from 0 to 20"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, Any], message: str) -> None:
    engine = Engine(make_decoder(), SIZE)
    with pytest.raises(RequestError, match=message):
        engine.submit(Request(**({"prompt": (5, 6, 7), "max_new_tokens": 4} | arguments)), Answer())
    assert engine.counts().waiting == 0


def test_scores_that_are_not_finite_end_one_request_with_an_error() -> None:
    decoder = make_decoder()
    damaged = jax.tree.map(lambda leaf: leaf * jnp.nan, decoder.params)
    engine = Engine(
        Decoder(
            model=decoder.model,
            params=damaged,
            stop_ids=(EOS,),
            forbidden_ids=(),
            context_length=CONTEXT,
        ),
        SIZE,
    )
    (found,) = answer(engine, [Request(prompt=(5,), max_new_tokens=4)])
    assert found.finish == "error"
    assert "scores are not finite" in str(found.progress[-1].error)


def test_after_a_failure_of_the_device_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(make_decoder(), SIZE)
    request = Request(prompt=LONG, max_new_tokens=4)
    lost, stop, done = Answer(), threading.Event(), threading.Event()

    def fails(*_: Any) -> None:
        monkeypatch.undo()
        raise MemoryError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(engine, "_decode", fails)
    engine.submit(request, lost)
    after = Answer()

    def deliver(progress: Progress) -> None:
        after(progress)
        if progress.finish is not None:
            done.set()

    thread = threading.Thread(target=engine.run, args=(stop,))
    thread.start()
    try:
        while lost.finish is None:
            done.wait(0.01)
        assert isinstance(lost.progress[-1].error, JaxgptError)
        engine.submit(request, deliver)
        assert done.wait(60)
    finally:
        stop.set()
        thread.join()
    assert after.tokens == solo(request).tokens
    assert after.progress[0].num_reused == 0


def test_a_context_that_no_chunk_divides_is_filled() -> None:
    config = replace(CONFIG, position=Learned(max_length=20))
    decoder = dataclasses.replace(make_decoder(config), context_length=20)
    engine = Engine(decoder, replace(SIZE, prefill_chunk=128))
    (found,) = answer(engine, [Request(prompt=LONG[:18], max_new_tokens=3, ignore_stop=True)])
    assert (len(found.ids), found.finish) == (3, "length")


def test_a_closed_engine_ends_what_it_has_and_takes_nothing() -> None:
    engine = Engine(make_decoder(), SIZE)
    request = Request(prompt=(5,), max_new_tokens=9, ignore_stop=True)
    left = Answer()
    engine.submit(request, left)
    engine.shut()
    while engine.step():
        pass
    assert left.finish == "cancelled"
    with pytest.raises(ClosedError):
        engine.submit(request, Answer())


def test_a_ticket_is_no_other_ticket() -> None:
    # Two equal requests are two: cancelling one leaves the other.
    request = Request(prompt=(5,), max_new_tokens=1)
    assert Ticket(request, print) != Ticket(request, print)
