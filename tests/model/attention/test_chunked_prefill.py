"""Attention of a part of a prompt to a cache: the reference's numbers, read as far as needed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.attention.chunked_prefill import ChunkedPrefill
from jaxgpt.model.attention.kernel import AttentionInputs, ProbabilityDropout, Scores
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.attention.reference import reference_attention

# Branches read 128, 256 and all of these keys.
NUM_KEYS = 300


def make_inputs(
    slots: list[list[int]],
    window: int | None = None,
    soft_cap: float | None = None,
    dtype: str = "float32",
) -> AttentionInputs:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    mask = AttentionMask(query_slots_BT=jnp.asarray(slots, jnp.int32), window=window)
    num_rows, num_queries = len(slots), len(slots[0])
    k_BSKH, v_BSKH = (draw(num_rows, NUM_KEYS, 3, 8) for _ in range(2))
    scores = Scores(0.3, soft_cap)
    return AttentionInputs(draw(num_rows, num_queries, 6, 8), k_BSKH, v_BSKH, mask, scores)


@pytest.mark.parametrize("last", [2, 127, 128, 255, 256, 299])
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (5, 2.0), (140, None)])
def test_it_is_the_reference(last: int, window: int | None, soft_cap: float | None) -> None:
    # A row that is further back, and one that ends with padding.
    inputs = make_inputs([[last - 2, last - 1, last], [0, 1, 2], [1, -1, -1]], window, soft_cap)
    found = ChunkedPrefill().attend(inputs)
    np.testing.assert_allclose(found, reference_attention(inputs), atol=2e-6)
    assert not np.any(np.asarray(found[2, 1:]))


def test_it_is_the_reference_in_bfloat16() -> None:
    inputs = make_inputs([[130, 131, 132]], dtype="bfloat16")
    found = ChunkedPrefill().attend(inputs)
    assert found.dtype == jnp.bfloat16
    expected = np.asarray(reference_attention(inputs), np.float64)
    error = np.linalg.norm(np.asarray(found, np.float64) - expected)
    assert error <= 1.5e-2 * np.linalg.norm(expected)


def test_keys_behind_the_last_query_are_not_read() -> None:
    inputs = make_inputs([[125, 126, 127], [9, 10, 11]])
    spoilt = dataclasses.replace(
        inputs,
        k_BSKH=inputs.k_BSKH.at[:, 128:].set(jnp.nan),
        v_BSKH=inputs.v_BSKH.at[:, 128:].set(jnp.nan),
    )
    attend = jax.jit(ChunkedPrefill().attend)
    np.testing.assert_array_equal(attend(spoilt), attend(inputs))


def test_it_refuses_what_is_no_part_of_a_prompt() -> None:
    inputs = make_inputs([[3, 4]])
    dropout = ProbabilityDropout(jax.random.key(0), 0.1)
    packed = dataclasses.replace(inputs.mask, segment_ids_BT=jnp.ones((1, 2), jnp.int32))
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"mask": AttentionMask()}, "there is no cache"),
        ({"dropout": dropout}, "it has no dropout of probabilities"),
        ({"mask": packed}, "it knows no segments"),
    )
    for changed, reason in changes:
        with pytest.raises(ValueError, match=reason):
            ChunkedPrefill().attend(dataclasses.replace(inputs, **changed))
