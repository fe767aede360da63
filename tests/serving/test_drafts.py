"""Counts of drafted tokens, for operators and in an answer's timings."""

import types
from typing import Any, cast

import pytest

pytest.importorskip("prometheus_client", reason="needs: pip install -e '.[serve]'")

from jaxgpt.inference.engine import Engine, Progress
from jaxgpt.inference.engine.counts import Tally
from jaxgpt.serving.answers import Piece, Usage
from jaxgpt.serving.metrics import Metrics


def test_drafts_are_counted_for_operators_and_clients() -> None:
    tally, usage = Tally(), Usage([], 1)
    for drafted, accepted in ((4, 3), (0, 0), (2, 0)):
        tally.add(Progress(num_drafted=drafted, num_accepted=accepted))
        usage.add(Piece(0, "", (), (), None, 0, None, drafted, accepted))
    engine: Any = types.SimpleNamespace(counts=lambda: tally.counts(0, 0, 0.0))
    shown = Metrics(cast(Engine, engine), "tiny").text().decode()
    for name, value in (("drafts", 2), ("draft_tokens", 6), ("accepted_tokens", 3)):
        line = f'jaxgpt_spec_decode_num_{name}_total{{model_name="tiny"}} {value}.0'
        assert line in shown.splitlines()
    timings = usage.timings()
    assert (timings["draft_n"], timings["draft_n_accepted"]) == (6, 3)
