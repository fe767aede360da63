"""Drafts beside what else a server can have: adapters, a mesh, 8-bit weights and cache."""

from collections.abc import Callable, Sequence

import pytest

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.engine import DecoderAdapter, Engine, Request
from jaxgpt.inference.engine.speculation.ngram_lookup import NgramLookup
from tests.inference.engine import test_mesh, test_precision
from tests.inference.engine.test_adapters import make_adapter, make_base
from tests.inference.engine.test_engine import GREEDY, LONG, SIZE, answer
from tests.inference.engine.test_speculation import assert_same

CASES: dict[str, tuple[Callable[[], Decoder], Sequence[int]]] = {
    "adapters": (make_base, (1, 2)),
    "mesh": (lambda: test_mesh.make_decoder("tensor", True), ()),
    "int8": (lambda: test_precision.make_decoder("dense", test_precision.INT8), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_drafts_change_no_answer(name: str) -> None:
    make, numbers = CASES[name]
    adapters: list[DecoderAdapter] = [make_adapter(number) for number in numbers]
    requests = [
        Request(
            prompt=LONG[: 5 + row] * 2,
            max_new_tokens=9 + row,
            sampling=GREEDY,
            adapter=min(row, len(adapters)),
            # A model with random weights repeats nothing; a bias makes it.
            bias={7: 100.0} if row == 1 else {},
        )
        for row in range(3)
    ]
    expected = answer(Engine(make(), SIZE, adapters), requests)
    engine = Engine(make(), SIZE, adapters, NgramLookup(most=3, shortest=1))
    assert_same(answer(engine, requests), expected)
    counts = engine.counts()
    assert 0 < counts.accepted_tokens < counts.drafted_tokens
