"""Sampling with arrays of settings: equal to sampling.py's, row by row."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inference.engine.drawing.request_sampling import RequestSampling
from jaxgpt.inference.engine.drawing.row_sampling import RowSettings, _keep_likeliest
from jaxgpt.inference.sampling import keep_top_k, keep_top_p

SETTINGS = [
    (None, 1.0),
    (1, 1.0),
    (7, 1.0),
    (50, 0.9),
    (None, 0.9),
    (None, 0.01),
    (1000, 0.5),
    (3, 0.999),
]


@pytest.mark.parametrize("kind", ["normal", "ties", "hidden", "peaked"])
def test_filters_keep_what_sorting_keeps(kind: str) -> None:
    rng = np.random.default_rng(0)
    scores_BV = rng.normal(size=(len(SETTINGS), 203)).astype(np.float32)
    if kind == "ties":
        scores_BV = np.round(scores_BV)
    if kind == "hidden":
        scores_BV[rng.random(scores_BV.shape) < 0.5] = -np.inf
    if kind == "peaked":
        scores_BV *= 30
    settings = RowSettings.defaults(len(SETTINGS))
    for row, (k, p) in enumerate(SETTINGS):
        settings.put(row, RequestSampling(top_k=k, top_p=p), np.zeros(2, np.uint32), False)
    found_BV = np.asarray(_keep_likeliest(jnp.asarray(scores_BV), settings))
    for row, (k, p) in enumerate(SETTINGS):
        expected_1V = jnp.asarray(scores_BV[row : row + 1])
        expected_1V = expected_1V if k is None else keep_top_k(expected_1V, k)
        expected_1V = expected_1V if p == 1 else keep_top_p(expected_1V, p)
        np.testing.assert_array_equal(found_BV[row], np.asarray(expected_1V)[0])
