"""Attention to a cache by blocks: the reference's numbers, whatever the other rows hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.cached_blocks import CachedBlocks
from jaxgpt.model.attention.kernel import AttentionInputs, Scores
from jaxgpt.model.attention.masks import AttentionMask
from jaxgpt.model.attention.reference import reference_attention


def make_inputs(slots: list[int], window: int | None, soft_cap: float | None) -> AttentionInputs:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    num_rows = len(slots)
    mask = AttentionMask(query_slots_BT=jnp.asarray(slots, jnp.int32)[:, None], window=window)
    return AttentionInputs(
        draw(num_rows, 1, 6, 8),
        draw(num_rows, 50, 3, 8),
        draw(num_rows, 50, 3, 8),
        mask,
        Scores(0.3, soft_cap),
    )


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("block", [1, 16, 50, 128])
def test_it_is_the_reference(window: int | None, soft_cap: float | None, block: int) -> None:
    # The last block of 16 is a short one; a row of -1 holds nobody.
    inputs = make_inputs([0, 15, 16, 49, -1], window, soft_cap)
    found = CachedBlocks(block=block).attend(inputs)
    expected = reference_attention(inputs)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not np.any(np.asarray(found[4]))


@pytest.mark.optimized
def test_a_longer_row_changes_no_bit_of_a_shorter_one() -> None:
    attend = jax.jit(lambda inputs: CachedBlocks(block=16).attend(inputs))
    short = attend(make_inputs([3, 12], None, None))
    long = attend(make_inputs([3, 49], None, None))
    np.testing.assert_array_equal(short[0], long[0])


def test_it_refuses_what_is_no_step_of_decoding() -> None:
    inputs = make_inputs([3, 12], None, None)
    with pytest.raises(ValueError, match="more than one query a row, or no cache"):
        CachedBlocks().attend(
            AttentionInputs(
                inputs.q_BTNH, inputs.k_BSKH, inputs.v_BSKH, AttentionMask(), inputs.scores
            )
        )
    with pytest.raises(ConfigError, match="block must be at least 1"):
        CachedBlocks(block=0)
