"""Log-probabilities under the base: what is computed, by whom, and what the run's folder keeps."""

from pathlib import Path

import numpy as np
import pytest

from jaxgpt.errors import UnfinishedError
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.finetuning.preference import reference_file
from jaxgpt.finetuning.preference.reference import REFERENCE, score_answers
from jaxgpt.finetuning.preference.reference_file import with_reference
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.training.loss import LossConfig
from jaxgpt.training.state import init_parameters

LENGTH = 8
_MODEL = GptConfig(num_layers=1, d_model=8, attention=GroupedQueryAttention(num_heads=2))


def _rows(num_examples: int, seed: int = 0) -> PackedRows:
    """Pairs of a prompt of one token and an answer of three."""
    size = 2 * num_examples
    tokens_N = np.random.default_rng(seed).integers(0, 9, 4 * size).astype(np.int32)
    weights_N = np.tile(np.array([0, 1, 1, 1], np.float32), size)
    examples = TokenizedExamples(tokens_N, weights_N, 4 * np.arange(size + 1), group_size=2)
    return PackedRows(examples, LENGTH)


def _values(rows: PackedRows) -> np.ndarray:
    return np.arange(2 * len(rows.examples), dtype=np.float32).reshape(-1, 2)


def _refuse(rows: PackedRows) -> np.ndarray:
    raise AssertionError("computed again")


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    sides = _rows(3), _rows(2, seed=1)
    first = with_reference(sides, tmp_path, _values, "base", is_kept=True)
    again = with_reference(sides, tmp_path, _refuse, "base", is_kept=True)
    for rows, one, two in zip(sides, first, again, strict=True):
        np.testing.assert_array_equal(one.labels[REFERENCE], _values(rows))
        np.testing.assert_array_equal(two.labels[REFERENCE], _values(rows))
    with pytest.raises(AssertionError, match="computed"):
        with_reference(sides, tmp_path, _refuse, "another base", is_kept=True)


def test_the_first_host_decides_what_all_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = (_rows(3),)
    with_reference(sides, tmp_path, _values, "base", is_kept=True)
    name = f"base:{sides[0].examples.fingerprint}"
    computed = []

    def score(rows: PackedRows) -> np.ndarray:
        computed.append(rows)
        return 2 * _values(rows)

    # This host sees the file, and the first one did not.
    monkeypatch.setattr(reference_file, "broadcast_from_first", lambda topic, value: [name])
    (found,) = with_reference(sides, tmp_path, score, "base", is_kept=False)
    assert computed == [*sides]
    np.testing.assert_array_equal(found.labels[REFERENCE], 2 * _values(sides[0]))
    # The first one sees it alone.
    monkeypatch.setattr(reference_file, "broadcast_from_first", lambda topic, value: [])
    with pytest.raises(UnfinishedError, match=r"sees .*reference\.npz, and this one"):
        with_reference(sides, tmp_path / "elsewhere", score, "base", is_kept=False)


def test_every_batch_is_a_sign_of_life() -> None:
    config, mesh, beats = _MODEL, single_device_mesh(), []
    model = config.build(9)
    params = init_parameters(model, ShardingRules(), mesh, seed=0)
    rows = _rows(5)

    def score(rows: PackedRows) -> np.ndarray:
        about = model, params, rows, mesh, 2, LossConfig()
        return score_answers(*about, lambda: beats.append(None))

    found_E2 = score(rows)
    assert found_E2.shape == (5, 2)
    assert (found_E2 < 0).all()
    assert len(beats) == -(-len(rows) // 2)
    assert score(_rows(0)).shape == (0, 2)
