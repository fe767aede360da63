"""Band keys: equal exactly where all rows of the same band are; the S-curve holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.lsh import band_keys, candidate_probability
from jaxgpt.corpus.dedup.near.minhash import sign
from jaxgpt.corpus.dedup.near.shingles import Shingles
from jaxgpt.errors import ConfigError


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1 << 32))
@settings(max_examples=100)
def test_keys_are_equal_exactly_where_bands_are(num_bands, num_rows, seed):
    # Few values, so that many bands are equal, and rows in another order occur.
    signatures = np.random.default_rng(seed).integers(
        0, 2, (20, num_bands * num_rows + 1), np.uint32
    )
    keys = band_keys(signatures, num_bands, num_rows)
    assert keys.shape == (20, num_bands)
    named = {
        (document, band): (band, *signatures[document, band * num_rows :][:num_rows].tolist())
        for document in range(20)
        for band in range(num_bands)
    }
    key_of = {}
    for place, name in named.items():
        assert key_of.setdefault(name, keys[place]) == keys[place]
    assert len(set(key_of.values())) == len(key_of)


def test_keys_are_spread_evenly():
    signatures = np.arange(4000 * 10, dtype=np.uint32).reshape(4000, 10)
    keys = band_keys(signatures, 5, 2).ravel()
    for shift in (0, 60):
        counts = np.bincount((keys >> np.uint64(shift) & np.uint64(15)).astype(int), minlength=16)
        assert abs(counts - len(keys) / 16).max() < 5 * (len(keys) / 16) ** 0.5


@pytest.mark.parametrize(("num_bands", "num_rows"), [(25, 10), (14, 8)])
def test_shared_bands_follow_the_curve(num_bands, num_rows):
    rng = np.random.default_rng(0)
    num_pairs, shared, own = 400, 80, 12
    true = shared / (shared + 2 * own)
    hashes = rng.integers(0, 1 << 64, (num_pairs, shared + 2 * own), np.uint64)
    both = np.concatenate([hashes[:, : shared + own], hashes[:, : shared + own]])
    both[num_pairs:, shared:] = hashes[:, shared + own :]
    offsets = np.arange(2 * num_pairs + 1) * (shared + own)
    keys = band_keys(sign(Shingles(both.ravel(), offsets)), num_bands, num_rows)
    rate = (keys[:num_pairs] == keys[num_pairs:]).any(axis=1).mean()
    expected = candidate_probability(true, num_bands, num_rows)
    assert 0.5 < expected < 0.99
    error = (expected * (1 - expected) / num_pairs) ** 0.5
    assert rate == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("bands", ["25", "0x8", "25 x 10", "25x10x2", "1000x1000", "-1x5", ""])
def test_bands_that_make_no_sense_are_refused(bands):
    with pytest.raises(ConfigError, match="bands"):
        NearDuplicatesConfig(bands=bands)


@pytest.mark.parametrize("changes", [{"threshold": 0.0}, {"threshold": 1.1}, {"ngram": 0}])
def test_other_values_that_make_no_sense_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        NearDuplicatesConfig(**changes)


def test_presets_have_signatures_that_are_long_enough():
    for bands, num in {"25x10": 256, "14x8": 256, "20x13": 260}.items():
        assert NearDuplicatesConfig(bands=bands).num_permutations == num
