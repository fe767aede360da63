"""Masks against their definition, spelled out token by token."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.model.attention.masks import AttentionMask, visible_keys


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_training_mask_is_causal_within_window_and_segment(data):
    num_tokens = 7
    window = data.draw(st.none() | st.integers(1, 10))
    segments = data.draw(
        st.none() | st.lists(st.integers(0, 3), min_size=num_tokens, max_size=num_tokens)
    )
    start, first_key = data.draw(st.sampled_from([(0, 0), (4, 0), (4, 2)]))
    mask = AttentionMask(
        segment_ids_BT=None if segments is None else jnp.asarray([segments]), window=window
    )
    found = visible_keys(mask, slice(start, num_tokens), slice(first_key, num_tokens))[0]
    for row, t in enumerate(range(start, num_tokens)):
        for column, s in enumerate(range(first_key, num_tokens)):
            expected = s <= t and (window is None or t - s < window)
            if segments is not None:
                expected = expected and segments[t] == segments[s] != 0
            assert bool(found[row, column]) == expected, (t, s)


@settings(max_examples=30, deadline=None)
@given(
    slots=st.lists(st.integers(-1, 7), min_size=3, max_size=3),
    window=st.none() | st.integers(1, 9),
)
def test_cached_mask_sees_up_to_its_own_slot(slots, window):
    mask = AttentionMask(query_slots_BT=jnp.asarray([slots]), window=window)
    found = np.asarray(visible_keys(mask, slice(0, len(slots)), slice(0, 8))[0])
    for t, slot in enumerate(slots):
        first = 0 if window is None else max(0, slot - window + 1)
        np.testing.assert_array_equal(np.flatnonzero(found[t]), np.arange(first, slot + 1))
