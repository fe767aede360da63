"""Shingles: the n-grams that a plain loop over words finds, in every script."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.dedup.near.shingles import shingle

TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "b", "Öl", "x_1", "語", "ไ", "-", "\n"]), max_size=12).map(
        " ".join
    ),
    max_size=8,
)


def naive_shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[語ไ]|[^\W語ไ]+", text.lower())
    if not words:
        return set()
    return {tuple(words[i : i + ngram]) for i in range(max(len(words) - ngram + 1, 1))}


def jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def exact_jaccard(one: str, other: str, ngram: int = 5) -> float:
    shingles = shingle([one, other], ngram)
    return jaccard(set(shingles.unique(0).tolist()), set(shingles.unique(1).tolist()))


@given(TEXTS, st.integers(1, 6))
@settings(max_examples=300)
def test_equal_hashes_are_equal_ngrams(texts, ngram):
    shingles = shingle(texts, ngram)
    name_of: dict[int, tuple[str, ...]] = {}
    assert len(shingles.counts_D) == len(texts)
    for document, text in enumerate(texts):
        expected = naive_shingles(text, ngram)
        found = set(shingles.unique(document).tolist())
        assert len(found) == len(expected)
        alone = shingle([text], ngram)
        np.testing.assert_array_equal(alone.unique(0), shingles.unique(document))
        for words in expected:
            hash = int(shingle([" ".join(words)], ngram).hashes_S[0])
            assert hash in found
            assert name_of.setdefault(hash, words) == words
    assert all(start <= stop for start, stop in pairwise(shingles.offsets_D1))


def test_a_short_text_has_one_shingle_and_an_empty_one_none():
    shingles = shingle(["one two three", "", "?!", "one", "one two three four five six"], 5)
    assert shingles.counts_D.tolist() == [1, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "今日は天気が良いので散歩に行きました。",
            "彼女は図書館で歴史の本を読んでいる。",
        ),
        ("中国有许多美丽的山水和悠久的历史文化传统。", "程序员每天编写代码解决各种复杂的问题。"),
        ("วันนี้อากาศดีมากเราไปเดินเล่นในสวนสาธารณะ", "แมวของฉันชอบนอนหลับบนหลังคาบ้านตอนกลางคืน"),
    ],
)
def test_unrelated_texts_without_spaces_share_nothing(one, other):
    assert exact_jaccard(one, other) == 0
    # Splitting at ASCII letters would leave both without words: the same empty set.
    assert re.findall(r"[A-Za-z_0-9]+", one) == re.findall(r"[A-Za-z_0-9]+", other) == []
    assert exact_jaccard(one, one[:-3]) > 0.7


def test_similarities_are_those_of_sets_of_words(shared_data: Path):
    pairs = [
        json.loads(line) for line in (shared_data / "small" / "neardup_pairs.jsonl").open("rb")
    ]
    assert len(pairs) > 40
    for pair in pairs:
        similarity = exact_jaccard(pair["a"], pair["b"])
        # Theirs is rounded to 4 places and of runs of \w, which here also hold marks.
        assert similarity == pytest.approx(pair["jaccard_w5"], abs=1e-3)
