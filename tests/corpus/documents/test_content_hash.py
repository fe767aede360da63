"""Exact duplicates: the same as comparing all texts, and independent of the order of reading."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.documents.content_hash import choose_kept, content_hash

DOCUMENTS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.text("abc", max_size=3)), max_size=30
).map(lambda pairs: [(text, id, f"f:{line}") for line, (text, id) in enumerate(pairs)])


def kept_of(documents):
    """{location: location of the document kept in its stead}."""
    hashes = np.frombuffer(
        b"".join(content_hash(text) for text, _, _ in documents), dtype=np.uint8
    ).reshape(-1, 16)
    kept = choose_kept(hashes, lambda row: documents[row][1:])
    return {documents[row][2]: documents[keeper][2] for row, keeper in enumerate(kept)}


@given(DOCUMENTS)
@settings(max_examples=200, deadline=None)
def test_of_each_text_the_smallest_id_is_kept(documents):
    expected = {}
    for text, _, location in documents:
        group = [document for document in documents if document[0] == text]
        expected[location] = min(group, key=lambda document: document[1:])[2]
    assert kept_of(documents) == expected


@given(DOCUMENTS, st.integers())
@settings(max_examples=100, deadline=None)
def test_the_order_of_reading_does_not_matter(documents, seed):
    shuffled = list(documents)
    random.Random(seed).shuffle(shuffled)
    assert kept_of(shuffled) == kept_of(documents)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("two words", " two \n\n words\t"),
        ("caf\u00e9", "cafe\u0301"),
        ("a\u00a0b", "a b"),
        ("a\u2028b", "a\nb"),
    ],
)
def test_whitespace_and_composition_do_not_count(one, other):
    assert content_hash(one) == content_hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Word", "word"), ("a b", "ab"), ("a.", "a"), ("\ufb01", "fi"), ("a", "\u0430")],
)
def test_everything_else_counts(one, other):
    assert content_hash(one) != content_hash(other)


def test_the_hash_is_the_same_everywhere_and_always():
    # Datasets that were built before must be found unchanged.
    assert content_hash("Hello,  world").hex() == "61f0632fb079b54d7386e91040cf00c3"
