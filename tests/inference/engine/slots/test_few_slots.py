"""Few slots apart from the others: nothing is lost, and nothing is used that XLA does not take."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.engine.slots import few_slots
from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder
from jaxgpt.inference.engine.slots.few_slots import choose_program
from jaxgpt.inference.engine.slots.slot_state import SlotState
from jaxgpt.inference.engine.slots.slots import decode, empty_slots
from tests.model import tiny_model


def test_what_lay_apart_is_put_back() -> None:
    model, _ = tiny_model.init(tiny_model.PLAIN)
    slots = empty_slots(model, 6, 8)
    state = SlotState(slots._replace(tokens_B=jnp.arange(6, dtype=jnp.int32)))
    for rows, added in (([1, 4], 10), ([1, 4], 10), ([0, 4], 100)):
        few = state.few(np.array(rows, np.int32))
        state.keep(few._replace(tokens_B=few.tokens_B + added))
    np.testing.assert_array_equal(state.all.tokens_B, [100, 21, 2, 3, 124, 5])
    jax.tree.map(np.testing.assert_array_equal, state.all.cache, empty_slots(model, 6, 8).cache)


def choose() -> tuple[Any, bool]:
    model, params = tiny_model.init(tiny_model.PLAIN)
    decoder = Decoder(model=model, params=params, stop_ids=(), forbidden_ids=(), context_length=8)
    return choose_program(AdaptedDecoder(decoder), model, 6, 8, 2)


def test_all_slots_are_computed_where_few_would_have_other_bits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(few_slots, "_stable_program", lambda: decode)
    one = np.ones(1, np.float32)
    drawn = iter([[one], [one], [one], [np.nextafter(one, 2)]])
    monkeypatch.setattr(few_slots, "_draw_in_first", lambda *_: next(drawn))
    assert choose() == (decode, True)
    with caplog.at_level("INFO", few_slots.__name__):
        assert choose() == (decode, False)
    assert "fewer rows change its bits" in caplog.text


def test_all_slots_are_computed_where_xla_has_no_such_option(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(few_slots, "STABLE_SUMS", {"xla_cpu_no_such_option": "1"})
    few_slots._stable_program.cache_clear()
    with caplog.at_level("WARNING", few_slots.__name__):
        assert choose() == (decode, False)
    few_slots._stable_program.cache_clear()
    assert "a lone request takes the time of all slots" in caplog.text
