"""The type that a bfloat16 model decodes in: its own, unless float32 is clearly faster here."""

import jax
import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.inference import fastest_dtype
from jaxgpt.inference.precision import UNROUNDED, WHILE_WRITING, Precision
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.model.gpt import Dtype, Gpt
from jaxgpt.runtime.target import CompileTarget, compiling_for
from tests.evaluation.tiny_scoring import load_tiny
from tests.model.tiny_model import PLAIN


def make_model(dtype: Dtype = "bfloat16", width: int = 512) -> Gpt:
    return replace(PLAIN, compute_dtype=dtype, d_model=width).build(320)


def let_float32_be_faster(patch: pytest.MonkeyPatch, ratio: float) -> None:
    patch.setattr(fastest_dtype, "time_ratio", lambda width, layers, dtype: ratio)


@pytest.mark.parametrize(("ratio", "found"), [(0.5, "bfloat16"), (1.4, "bfloat16"), (2, "float32")])
def test_float32_is_taken_where_it_is_clearly_faster(
    ratio: float, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_float32_be_faster(monkeypatch, ratio)
    assert WHILE_WRITING.choose(make_model(), False).config.compute_dtype == found


def test_where_nothing_is_to_be_chosen_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest_dtype, "time_ratio", None)
    assert WHILE_WRITING.choose(make_model("float32"), False).config.compute_dtype == "float32"
    for precision, is_shared in (
        (UNROUNDED, False),
        (WHILE_WRITING, True),
        (replace(WHILE_WRITING, weights="int8"), False),
        (Precision(compute="bfloat16"), False),
    ):
        assert precision.choose(make_model(), is_shared).config.compute_dtype == "bfloat16"
    # So small that the trial would be noise.
    assert WHILE_WRITING.choose(make_model(width=32), False).config.compute_dtype == "bfloat16"
    with compiling_for(CompileTarget(platform="gpu", compute_capability=9.0)):
        assert WHILE_WRITING.choose(make_model(), False).config.compute_dtype == "bfloat16"


def test_a_trial_times_both_types() -> None:
    assert 0 < fastest_dtype.time_ratio(64, 1, "bfloat16") < 1000


def test_a_bfloat16_model_writes_in_float32_what_a_float32_model_writes() -> None:
    loaded = load_tiny(config=PLAIN)
    vocab_size = loaded.tokenizer.vocab_size
    texts = []
    for dtype, precision in (("bfloat16", Precision(compute="float32")), ("float32", UNROUNDED)):
        model = replace(PLAIN, compute_dtype=dtype).build(vocab_size)
        model = precision.choose(model, is_shared=False)
        params = jax.device_put(loaded.params, jax.devices()[0])
        decoder = make_text_decoder(model, params, loaded.tokenizer, 32, precision=precision)
        blocks = decoder.generate([[1, 5, 9]], 12, SamplingConfig(temperature=0.7), seed=3)
        texts.append([each for (new,) in blocks for each in new.ids])
    np.testing.assert_array_equal(*texts)
