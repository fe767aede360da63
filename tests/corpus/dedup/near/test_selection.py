"""The selection: no removal without exact similarity to one that stays, whatever the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.dedup.near import selection
from jaxgpt.corpus.dedup.near.lsh import band_keys
from jaxgpt.corpus.dedup.near.minhash import sign
from jaxgpt.corpus.dedup.near.selection import Members, rank, select
from jaxgpt.corpus.dedup.near.shingles import Shingles

# Sets that are subsets of a few, so that all degrees of similarity occur.
SETS = st.lists(
    st.tuples(st.integers(0, 2), st.sets(st.integers(0, 11), min_size=1)).map(
        lambda drawn: frozenset(drawn[0] * 8 + place for place in drawn[1])
    ),
    min_size=1,
    max_size=14,
    unique=True,
)


def members_of(sets, keys=None, num_fixed=0, passages=None) -> Members:
    passages = passages or [np.zeros(0, np.uint64)] * len(sets)
    hashes = [
        np.unique(
            np.array([place * 0x1E3779B97F4A7C15 % (1 << 63) for place in sorted(one)]).view(
                np.uint64
            )
        )
        for one in sets
    ]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in hashes])])
    signatures = sign(Shingles(np.concatenate(hashes), offsets))
    return Members(
        keys_NB=band_keys(signatures, 25, 10) if keys is None else keys,
        signatures_NK=signatures,
        num_shingles_N=np.diff(offsets),
        shingles_of=lambda member: hashes[member],
        num_passages_N=np.array([len(each) for each in passages]),
        passages_of=lambda member: passages[member],
        num_fixed=num_fixed,
    )


def jaccard(one, other) -> float:
    return len(one & other) / len(one | other)


def all_share_a_band(num: int) -> np.ndarray:
    return np.zeros((num, 1), np.uint64)


def naive_selection(sets, threshold: float, num_fixed: int = 0):
    """Every document against all kept before it."""
    kept = list(range(num_fixed))
    removed = {}
    for number in range(num_fixed, len(sets)):
        keepers = [keeper for keeper in kept if jaccard(sets[keeper], sets[number]) >= threshold]
        if keepers:
            removed[number] = keepers[0]
        else:
            kept.append(number)
    return removed


def removals(selected) -> dict[int, int]:
    return {number: int(kept) for number, kept in enumerate(selected.kept_N) if kept != number}


@given(SETS, st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]), st.integers(0, 3))
@settings(max_examples=200)
def test_where_all_share_a_band_it_is_the_naive_election(sets, threshold, num_fixed):
    num_fixed = min(num_fixed, len(sets))
    members = members_of(sets, all_share_a_band(len(sets)), num_fixed)
    selected = select(members, threshold)
    expected = naive_selection(sets, threshold, num_fixed)
    assert removals(selected) == expected
    for number, keeper in expected.items():
        assert selected.similarity_N[number] == jaccard(sets[number], sets[keeper])
    assert selected.num_cut == 0


@given(SETS, st.sampled_from([0.5, 0.7, 0.9]), st.integers(0, 1 << 32))
@settings(max_examples=100)
def test_whatever_the_bands_are(sets, threshold, seed):
    # Bands of chance: collisions of unlike documents, and like ones that share none.
    keys = np.random.default_rng(seed).integers(0, 4, (len(sets), 3), np.uint64)
    keys += np.arange(3, dtype=np.uint64) * np.uint64(4)
    selected = select(members_of(sets, keys), threshold)
    removed = removals(selected)
    assert len(removed) < len(sets)
    for number, keeper in removed.items():
        assert keeper not in removed
        assert keeper < number
        assert jaccard(sets[number], sets[keeper]) >= threshold
        assert (keys[number] == keys[keeper]).any()
    stay = [number for number in range(len(sets)) if number not in removed]
    for place, keeper in enumerate(stay):
        for number in stay[place + 1 :]:
            share = (keys[number] == keys[keeper]).any()
            assert not share or jaccard(sets[number], sets[keeper]) < threshold


def test_similarity_is_not_passed_on():
    # Each is like its neighbours; the first and the last have nothing in common.
    chain = [frozenset(range(start, start + 20)) for start in range(0, 40, 2)]
    selected = select(members_of(chain, all_share_a_band(len(chain))), 0.7)
    assert 0 < len(removals(selected)) < len(chain) - 1
    for number, keeper in removals(selected).items():
        assert abs(number - keeper) == 1


def passages_of(writing: str) -> np.ndarray:
    """As many passages as letters; each place has words of its own, the letter is how they are."""
    places = np.arange(1, len(writing) + 1, dtype=np.uint64) << np.uint64(32)
    return places | np.frombuffer(writing.encode(), np.uint8).astype(np.uint64)


@given(
    st.lists(st.text("ab", min_size=40, max_size=40), min_size=1, max_size=8),
    st.integers(0, 4),
    st.integers(1, 60),
)
def test_of_equal_words_only_those_go_that_are_written_alike(writings, num_prose, block):
    writings = [*dict.fromkeys(writings), *("a" * 39 + letter for letter in "cd")]
    sets = [frozenset(range(30))] * (len(writings) + num_prose)
    passages = [passages_of(each) for each in writings] + [passages_of("")] * num_prose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_BLOCK_SHINGLES", block)
        selected = select(members_of(sets, passages=passages), 0.7)
    kept: list[int] = []
    for number, writing in enumerate(writings):
        # 38 of 40 are 95 %.
        keepers = [
            keeper for keeper in kept if sum(map(str.__eq__, writing, writings[keeper])) >= 38
        ]
        assert int(selected.kept_N[number]) == (keepers[0] if keepers else number)
        if not keepers:
            kept.append(number)
    # Prose is compared by its words alone.
    assert (selected.kept_N[len(writings) :] == 0).all()
    assert (selected.num_differing > 0) == (len(kept) > 1)


def test_writing_that_has_no_words_in_common_differs():
    sets = [frozenset(range(30))] * 2
    apart = [passages_of("aaaa"), passages_of("aaaa") + np.uint64(9 << 32)]
    assert removals(select(members_of(sets, passages=apart), 0.7)) == {}


def test_copies_lose_all_but_one():
    sets = [frozenset(range(30))] * 50
    selected = select(members_of(sets), 0.7)
    assert removals(selected) == dict.fromkeys(range(1, 50), 0)


def test_a_crowded_bucket_is_cut_and_the_cut_counted(monkeypatch):
    monkeypatch.setattr(selection, "MAX_KEEPERS", 8)
    unlike = [frozenset(range(start, start + 10)) for start in range(0, 400, 10)]
    sets = [*unlike, unlike[2] | {1000}, unlike[30] | {1001}]
    selected = select(members_of(sets, all_share_a_band(len(sets))), 0.7)
    assert removals(selected) == {40: 2}
    # Without number 40 there are 41; after 8 keepers each further one has all later ones left.
    assert selected.num_cut == sum(range(41 - 8))
    # In a band of their own they are still found.
    keys = np.zeros((42, 2), np.uint64)
    keys[:, 1] = np.arange(1, 43)
    keys[41, 1] = keys[30, 1]
    assert removals(select(members_of(sets, keys), 0.7)) == {40: 2, 41: 30}


def test_shingles_are_compared_in_blocks_of_any_size(monkeypatch):
    sets = [frozenset(range(start, start + 30)) for start in (0, 1, 2, 50, 3, 51)]
    whole = select(members_of(sets, all_share_a_band(6)), 0.7)
    monkeypatch.setattr(selection, "_BLOCK_SHINGLES", 45)
    in_blocks = select(members_of(sets, all_share_a_band(6)), 0.7)
    np.testing.assert_array_equal(in_blocks.kept_N, whole.kept_N)
    assert removals(whole) == {1: 0, 2: 0, 4: 0, 5: 3}


@pytest.mark.parametrize("seed", range(3))
def test_rank_is_fixed_first_then_longest_then_by_hash(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, 60)
    hashes = rng.integers(0, 3, (60, 16), np.uint8)
    is_fixed = rng.integers(0, 2, 60).astype(bool)
    expected = sorted(
        range(60),
        key=lambda place: (not is_fixed[place], -lengths[place], hashes[place].tobytes(), place),
    )
    assert rank(lengths, hashes, is_fixed).tolist() == expected
