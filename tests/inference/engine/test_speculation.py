"""Drafted tokens: whatever is drafted, an answer is the one without; right drafts are accepted."""

import dataclasses
from collections.abc import Callable, Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxgpt.config import configclass, replace
from jaxgpt.inference.engine import Engine, Request
from jaxgpt.inference.engine.drafting import Draws, OpenCheckpoint, Speculation, Target, Text
from jaxgpt.inference.engine.slots import verification
from jaxgpt.inference.engine.speculation.ngram_lookup import NgramLookup
from tests.inference.engine.test_engine import (
    EOS,
    GREEDY,
    LONG,
    SIZE,
    VOCAB_SIZE,
    Answer,
    Spell,
    answer,
    make_decoder,
    random_request,
)

Guess = Callable[[Text], list[int]]


class GivenDrafter:
    """Drafts what a test says."""

    most = 3

    def __init__(self) -> None:
        self.guess: Guess = lambda text: []

    def draft(self, texts: Sequence[Text], draws: Draws) -> list[list[int]]:
        return [self.guess(text)[: min(self.most, text.room)] for text in texts]

    def reset(self) -> None:
        pass


DRAFTER = GivenDrafter()


@configclass
class Given(Speculation):
    """Drafts that a test gives."""

    most: int = GivenDrafter.most

    def build(self, target: Target, open_checkpoint: OpenCheckpoint) -> GivenDrafter:
        return DRAFTER


@pytest.fixture(scope="module")
def plain() -> Engine:
    """Return an engine without drafts."""
    return Engine(make_decoder(), SIZE)


@pytest.fixture(scope="module")
def speculating() -> Engine:
    """Return an engine with the drafts of a test."""
    return Engine(make_decoder(), SIZE, speculation=Given())


def continuations(requests: Sequence[Request], answers: Sequence[Answer]) -> Guess:
    """Return a guess that is right: what each request's text gets next."""
    texts = [[*request.prompt, *each.ids] for request, each in zip(requests, answers, strict=True)]

    def guess(text: Text) -> list[int]:
        # Answers to equal prompts may be many; requests of a test have other prompts.
        ids = text.ids.tolist()
        (right,) = {tuple(each[len(ids) :]) for each in texts if each[: len(ids)] == ids}
        return list(right)

    return guess


def free_requests(number: int) -> list[Request]:
    return [
        Request(prompt=(*LONG[: 3 * row], row + 3), max_new_tokens=9 + row, ignore_stop=True)
        for row in range(number)
    ]


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.ids, one.finish) == (other.ids, other.finish)
        for new, old in zip(one.tokens, other.tokens, strict=True):
            assert new.log_probability == pytest.approx(old.log_probability, abs=1e-4)
            assert [id for id, _ in new.top] == [id for id, _ in old.top]


def make_mixed(right: Guess, rng: np.random.Generator) -> Guess:
    """Return a guess that is right, wrong from some place on, or nothing, of any length."""

    def guess(text: Text) -> list[int]:
        ids = right(text)[: rng.integers(0, 4)]
        if rng.random() < 0.5:
            ids[rng.integers(0, 3) :] = rng.integers(0, VOCAB_SIZE, rng.integers(0, 3)).tolist()
        return ids

    return guess


@given(st.integers(0, 2**32 - 1))
# The same draws each time: with other programs a draw can differ where two ids are equally likely
# up to rounding, and among ever new ones that would come up one day.
@settings(max_examples=4, derandomize=True)
def test_drafts_change_no_answer(plain: Engine, speculating: Engine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    requests = [random_request(rng) for _ in range(7)]
    # Endings that no other prompt has, so that texts are told apart.
    requests = [
        dataclasses.replace(request, prompt=(*request.prompt, row + 3, 60))
        for row, request in enumerate(requests)
    ]
    expected = answer(plain, requests)
    DRAFTER.guess = make_mixed(continuations(requests, expected), rng)
    assert_same(answer(speculating, requests), expected)


def test_right_drafts_are_accepted_and_wrong_ones_are_not(
    plain: Engine, speculating: Engine
) -> None:
    requests = free_requests(3)
    expected = answer(plain, requests)
    right = continuations(requests, expected)
    for guess, share in ((right, 1), (lambda text: [(id + 1) % 61 for id in right(text)], 0)):
        DRAFTER.guess = guess
        before = speculating.counts()
        assert_same(answer(speculating, requests), expected)
        after = speculating.counts()
        drafted = after.drafted_tokens - before.drafted_tokens
        assert drafted > 0
        assert after.accepted_tokens - before.accepted_tokens == share * drafted
        # The first token comes with the prompt, and the last needs no draft; in between a draft of
        # three gives four tokens.
        if share:
            rests = [request.max_new_tokens - 2 for request in requests]
            assert after.drafts - before.drafts == sum(-(-rest // 4) for rest in rests)


def test_drafts_behind_the_end_of_an_answer_are_not_accepted(speculating: Engine) -> None:
    # The second token is the last one that is not the end; the first comes with the prompt.
    sampling = dataclasses.replace(GREEDY, min_new_tokens=2)
    request = Request(prompt=LONG[:9], max_new_tokens=9, sampling=sampling, bias={EOS: 1e4})
    DRAFTER.guess = lambda text: []
    (expected,) = answer(speculating, [request])
    DRAFTER.guess = lambda text: [expected.ids[1], EOS, EOS]
    before = speculating.counts()
    assert_same(answer(speculating, [request]), [expected])
    after = speculating.counts()
    assert (len(expected.ids), expected.finish) == (2, "stop")
    assert after.drafted_tokens - before.drafted_tokens == 3
    assert after.accepted_tokens - before.accepted_tokens == 2


def test_what_a_cancelled_request_was_guessed_is_gone(plain: Engine, speculating: Engine) -> None:
    request = dataclasses.replace(free_requests(1)[0], max_new_tokens=30)
    expected = answer(plain, [request])
    DRAFTER.guess = continuations([request], expected)
    for _ in range(SIZE.num_slots):
        left = Answer()
        ticket = speculating.submit(request, left)
        speculating.step()
        speculating.step()
        speculating.cancel(ticket)
        assert not speculating.step()
        assert left.finish == "cancelled"
        assert left.ids == expected[0].ids[: len(left.ids)]
    DRAFTER.guess = lambda text: [5, 6, 7]
    assert_same(answer(speculating, [request]), expected)


def test_a_constraint_binds_beside_drafts(plain: Engine, speculating: Engine) -> None:
    (free,) = free_requests(1)

    def bound() -> Request:
        return Request(prompt=(9,), max_new_tokens=30, constraint=Spell([33, 60, 4], then=5))

    expected = answer(plain, [bound(), free])
    right = continuations([bound(), free], expected)
    asked = []

    def guess(text: Text) -> list[int]:
        asked.append(text.ids.tolist())
        return right(text)

    DRAFTER.guess = guess
    assert_same(answer(speculating, [bound(), free]), expected)
    # Where the constraint binds, nobody is asked; afterwards drafts may go on.
    assert [9] not in asked
    assert [9, 33, 60] not in asked
    assert [9, 33, 60, 4] in asked


def test_a_text_that_repeats_itself_is_looked_up(plain: Engine) -> None:
    # The model alone repeats nothing; a bias makes it.
    request = Request(prompt=LONG[:9], max_new_tokens=24, sampling=GREEDY, bias={7: 100.0})
    engine = Engine(make_decoder(), SIZE, speculation=NgramLookup(most=GivenDrafter.most))
    assert_same(answer(engine, [request]), answer(plain, [request]))
    counts = engine.counts()
    assert counts.accepted_tokens == counts.drafted_tokens > 10


def test_where_bits_differ_all_tokens_are_drawn_in_one_way(
    plain: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verification, "are_equal", lambda *_: False)
    with caplog.at_level("INFO", verification.__name__):
        engine = Engine(make_decoder(), SIZE, speculation=Given())
    assert "with other last bits than decoding has, so every token is drawn that way" in caplog.text
    monkeypatch.setattr(engine._work, "decode", None)
    requests = free_requests(2)
    expected = answer(plain, requests)
    # One of them is guessed, the other is not.
    right = continuations(requests, expected)
    DRAFTER.guess = lambda text: right(text) if text.ids[0] != LONG[0] else []
    assert_same(answer(engine, requests), expected)
    assert engine.counts().accepted_tokens


@pytest.mark.optimized
def test_answers_have_the_bits_of_those_without_drafts() -> None:
    size = replace(SIZE, num_slots=6)
    requests = free_requests(8)
    expected = answer(Engine(make_decoder(), size), requests)
    engine = Engine(make_decoder(), size, speculation=Given())
    DRAFTER.guess = make_mixed(continuations(requests, expected), np.random.default_rng(0))
    found = [*answer(engine, requests), *answer(engine, requests[:1])]
    assert engine.counts().accepted_tokens
    for one, other in zip(found, [*expected, expected[0]], strict=True):
        assert one.tokens == other.tokens
