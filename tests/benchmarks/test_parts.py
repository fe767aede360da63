"""`decode`, `attention` and `loss-head` on the smallest of models, beside what they are held to."""

from typing import Any

import numpy as np
import pytest

from jaxgpt.benchmarks.attention import AttentionBenchmark
from jaxgpt.benchmarks.attention import _check_equal as check_gradients
from jaxgpt.benchmarks.decode import DecodeBenchmark, _check_equal, gpt2_model
from jaxgpt.benchmarks.inputs.shapes import SHAPES
from jaxgpt.benchmarks.loss_head import LossHeadBenchmark
from jaxgpt.benchmarks.measurement import Measurement
from jaxgpt.errors import ConfigError, JaxgptError

pytestmark = pytest.mark.slow

ATTENTION: dict[str, Any] = {
    "batch_size": 2,
    "sequence_length": 32,
    "num_heads": 2,
    "head_dim": 8,
    "repeats": 2,
    "rounds": 2,
}


def _is_sound(found: Measurement) -> None:
    assert found.spread[0] <= found.value <= found.spread[1]
    assert found.against is not None
    assert found.against.ratio == pytest.approx(found.value / found.against.value)


def test_transformers_writes_the_same_tokens() -> None:
    pytest.importorskip("torch", reason="an extra: pip install -e '.[benchmark]'")
    pytest.importorskip("transformers", reason="an extra: pip install -e '.[benchmark]'")
    options: dict[str, Any] = {"shape": "tiny", "batch_size": 2, "new_tokens": 8, "rounds": 2}
    found = DecodeBenchmark(**options, against="transformers").run()
    _is_sound(found)
    assert found.settings["tokens equal before the first that differs"] == 8


def test_a_step_of_decoding_reads_weights_and_caches() -> None:
    benchmark = DecodeBenchmark(prompt_tokens=100, new_tokens=200, batch_size=3, dtype="bfloat16")
    model = gpt2_model(SHAPES["gpt2-124m"], "bfloat16").build(50_304)
    # 123.5M parameters in products, and 12 layers of keys and values of 768 for each of 200 tokens.
    expected = 2 * 123.57e6 + 3 * 200 * 2 * 12 * 2 * 768
    assert benchmark.bytes_per_step(model, None) == pytest.approx(expected, rel=1e-3)
    wider = 3 * 200 * 2 * 12 * 2 * 768
    assert benchmark.bytes_per_step(model, "float32") == pytest.approx(expected + wider, rel=1e-3)


def test_rows_that_differ_are_counted_or_refused() -> None:
    assert _check_equal([[1, 2, 3]], [[1, 2, 4]], "float32") == 2
    assert _check_equal([[1, 2]], [[1, 2]], "bfloat16") == 2
    assert _check_equal([[1, 2]], [[0, 2]], "bfloat16") == 0
    with pytest.raises(JaxgptError, match="their models differ"):
        _check_equal([[1, 2]], [[0, 2]], "float32")
    with pytest.raises(JaxgptError, match="same number of tokens"):
        _check_equal([[1, 2]], [[1]], "bfloat16")


@pytest.mark.parametrize("kernel", ["reference", "saved-probabilities", "row-by-row"])
def test_kernels_beside_the_reference_on_packed_rows(kernel: Any) -> None:
    _is_sound(AttentionBenchmark(**ATTENTION, kernel=kernel, document=8, against="reference").run())


def test_a_kernel_beside_pytorch() -> None:
    pytest.importorskip("torch", reason="an extra: pip install -e '.[benchmark]'")
    found = AttentionBenchmark(**ATTENTION, dtype="bfloat16", against="pytorch").run()
    _is_sound(found)
    assert "torch" in found.versions


def test_a_kernel_that_cannot_run_here_says_why() -> None:
    with pytest.raises(ConfigError, match="cudnn cannot compute this here"):
        AttentionBenchmark(**ATTENTION, kernel="cudnn", dtype="bfloat16").run()
    with pytest.raises(ConfigError, match="packed"):
        AttentionBenchmark(**ATTENTION, document=8, against="pytorch")


def test_a_kernel_that_computes_something_else_has_no_figure() -> None:
    right = np.ones((2, 2), np.float32)
    check_gradients([right], [right + 1e-6], "float32")
    for wrong in (right * 1.01, right * np.nan):
        with pytest.raises(JaxgptError, match="differ from the reference"):
            check_gradients([wrong], [right], "float32")


def test_chunks_need_less_than_all_logits() -> None:
    found = LossHeadBenchmark(
        sequence_length=256, d_model=16, vocab_size=1000, chunk_tokens=64, repeats=1, rounds=2
    ).run()
    _is_sound(found)
    assert found.settings["bytes / bytes"] < 0.5
    assert found.settings["time / time"] == pytest.approx(1 / found.against.ratio)  # type: ignore


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DecodeBenchmark, {"rounds": 0}),
        (DecodeBenchmark, {"prompt_tokens": 1000, "new_tokens": 100}),
        (AttentionBenchmark, {"repeats": 0}),
        (LossHeadBenchmark, {"chunk_tokens": 0}),
    ],
)
def test_impossible_settings_are_refused(kind: type, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        kind(**options)
