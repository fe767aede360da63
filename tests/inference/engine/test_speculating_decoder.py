"""The engine with drafts as a decoder: it writes what the decoder writes."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import DivergedError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.engine.drafting import no_checkpoint
from jaxgpt.inference.engine.speculating_decoder import SpeculatingDecoder, with_speculation
from jaxgpt.inference.engine.speculation.ngram_lookup import NgramLookup
from jaxgpt.inference.sampling import SamplingConfig
from tests.inference.engine.test_engine import LONG, VOCAB_SIZE, make_decoder

SAMPLING = SamplingConfig(temperature=0.8, repetition_penalty=0.7)
PROMPTS = [LONG[:length] * 2 for length in (1, 15, 30)]


def speculating(decoder: Decoder) -> Decoder:
    return with_speculation(decoder, NgramLookup(shortest=1, most=3), no_checkpoint)


def only_some(row: int, ids: Sequence[int]) -> np.ndarray | None:
    """Begin a row with its number, then leave it alone."""
    return np.arange(VOCAB_SIZE) == 9 + row if not ids else None


@pytest.mark.slow
def test_it_writes_what_the_decoder_writes() -> None:
    decoder = make_decoder()
    both: list[list[list[int]]] = []
    drafting = speculating(decoder)
    for each in (decoder, drafting):
        rows: list[list[int]] = [[] for _ in PROMPTS]
        finish = {}
        arguments = (PROMPTS, [12, 20, 9], SAMPLING, 5, [7, 2, 3], only_some)
        for news in each.generate(*arguments):
            for new in news:
                rows[new.row] += new.ids
                finish[new.row] = new.finish
        assert {*finish.values()} <= {"stop", "length"}
        both.append([[len(ids) for ids in rows], *rows])
    assert both[0] == both[1]
    assert [ids[0] for ids in both[1][1:]] == [9, 10, 11]
    assert isinstance(drafting, SpeculatingDecoder)
    assert drafting.account()["speculation"]["drafted_tokens"] > 0
    assert decoder.account() == {}
    # Who leaves early frees the slots; a longer text gets longer ones.
    for limit in (30, 300):
        next(iter(drafting.generate(PROMPTS, limit, SAMPLING)))
        assert drafting._engines[0].counts().running == 0
    # As for a conversation, which grows: the next one has room too.
    (engine,) = drafting._engines
    assert engine.max_length == 512 > decoder.context_length
    next(iter(drafting.generate(PROMPTS, 310, SAMPLING)))
    assert drafting._engines == [engine]


def test_scores_that_are_not_finite_are_an_error() -> None:
    decoder = make_decoder()
    damaged = jax.tree.map(lambda leaf: leaf * jnp.nan, decoder.params)
    drafting = speculating(dataclasses.replace(decoder, params=damaged))
    with pytest.raises(DivergedError, match="scores are not finite"):
        list(drafting.generate([[5]], 4, SAMPLING))


def test_an_interrupt_costs_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    drafting = speculating(make_decoder())
    arguments = (PROMPTS[:1], 12, SAMPLING)
    expected = list(drafting.generate(*arguments))
    drafted = drafting.account()
    assert isinstance(drafting, SpeculatingDecoder)
    work = drafting._engines[0]._work

    def interrupt(*_: object) -> None:
        # As within a program that was given the slots.
        jax.tree.map(lambda leaf: leaf.delete(), work._state.all)
        raise KeyboardInterrupt

    for name in ("decode", "verify"):
        monkeypatch.setattr(work, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(drafting.generate(*arguments))
    assert drafting.account() == drafted
    assert list(drafting.generate(*arguments)) == expected
    twice = {name: 2 * number for name, number in drafted["speculation"].items()}
    assert drafting.account() == {"speculation": twice}


def test_without_speculation_it_is_the_decoder() -> None:
    assert with_speculation(make_decoder(), None, no_checkpoint) is make_decoder()
