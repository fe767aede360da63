"""Parity with transformers from files, where neither torch nor transformers is installed."""

import numpy as np
import pytest

from tests.parity.families import FAMILIES, VOCAB_SIZE
from tests.parity.make_golden import GOLDEN, NAMES, make


def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_recorded_ones(name: str) -> None:
    arrays, family = _load(name), FAMILIES[name]
    weights = {
        path.removeprefix("params/"): weight.astype(np.float32)
        for path, weight in arrays.items()
        if path.startswith("params/")
    }
    assert {path: weight.shape for path, weight in weights.items()} == family.shapes
    assert arrays["logits"].shape == (*arrays["tokens"].shape, VOCAB_SIZE)
    found = family.logits(weights, arrays["tokens"])
    np.testing.assert_allclose(found, arrays["logits"], rtol=0, atol=1e-4)


def test_the_files_are_what_make_golden_writes() -> None:
    for module in ("torch", "transformers"):
        pytest.importorskip(module, reason="made with: pip install -e '.[parity]'")
    for name in NAMES:
        recorded, made = _load(name), make(name)
        assert recorded.keys() == made.keys()
        for key in made.keys() - {"logits"}:
            np.testing.assert_array_equal(recorded[key], made[key], err_msg=f"{name} {key}")
        np.testing.assert_allclose(recorded["logits"], made["logits"], rtol=0, atol=1e-5)


def test_the_files_are_small() -> None:
    assert sum((GOLDEN / f"{name}.npz").stat().st_size for name in NAMES) < 200_000
