"""The language of the measures: learnable, one language, other rows."""

import itertools

import numpy as np

from jaxgpt.benchmarks.inputs.synthetic_text import sample_batch, sample_windows


def test_seeds_give_other_rows_of_one_language() -> None:
    one, same, other = (sample_windows(20, 300, 1000, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    followers = [
        {(int(a), int(b)) for row in rows for a, b in itertools.pairwise(row)}
        for rows in (one, other)
    ]
    # At most 8 successors for each of 512 words, of a million possible pairs.
    assert len(followers[0] | followers[1]) <= 8 * 512


def test_rows_are_whole_or_packed() -> None:
    whole = sample_batch(2, 32, 100, 0)
    assert whole.segment_ids_BT is None
    packed = sample_batch(2, 32, 100, 0, document=8)
    assert set(np.unique(packed.segment_ids_BT)) == {1, 2, 3, 4}
    assert packed.tokens_BT.max() < 100
