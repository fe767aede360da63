"""Splits: nothing lost, nothing in both, a function of content and seed alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.documents.content_hash import content_hash
from jaxgpt.corpus.documents.splits import HashSplit, TailSplit
from jaxgpt.errors import ConfigError


def divide(split, texts, seed=0):
    hashes = [content_hash(text) for text in texts]
    assignment = split.plan(hashes, seed)
    return [assignment.divide(*pair) for pair in zip(hashes, texts, strict=True)]


def texts_of(number):
    return [f"document {i}" for i in range(number)]


@given(st.integers(2, 40), st.floats(0.001, 0.999, allow_nan=False), st.integers(0, 2**40))
@settings(max_examples=200, deadline=None)
def test_hash_split_divides_documents_and_leaves_neither_side_empty(number, fraction, seed):
    texts = texts_of(number)
    divided = divide(HashSplit(val_fraction=fraction), texts, seed)
    assert all(sorted(pair) == ["", text] for pair, text in zip(divided, texts, strict=True))
    num_val = sum(val != "" for _, val in divided)
    assert 1 <= num_val < number


def test_hash_split_holds_out_about_its_share():
    divided = divide(HashSplit(val_fraction=0.1), texts_of(5000))
    num_val = sum(val != "" for _, val in divided)
    # Within 4 standard deviations of a binomial draw.
    assert abs(num_val - 500) < 4 * (5000 * 0.1 * 0.9) ** 0.5


def test_hash_split_does_not_depend_on_order_or_on_other_documents():
    texts = texts_of(2000)
    split = HashSplit(val_fraction=0.05)
    whole = dict(zip(texts, divide(split, texts), strict=True))
    assert dict(zip(texts[::-1], divide(split, texts[::-1]), strict=True)) == whole
    half = dict(zip(texts[:1000], divide(split, texts[:1000]), strict=True))
    assert all(whole[text] == pair for text, pair in half.items())


def test_hash_split_follows_the_seed():
    split = HashSplit(val_fraction=0.5)
    assert divide(split, texts_of(50), seed=1) != divide(split, texts_of(50), seed=2)


def test_a_single_document_is_divided_and_that_is_said():
    text = "word " * 1000
    ((training, val),) = divide(HashSplit(val_fraction=0.01), [text])
    assert training + val == text
    assert len(val) == 50
    assert "one document" in HashSplit().plan([b"0" * 16], 0).note
    assert HashSplit().plan([b"0" * 16, b"1" * 16], 0).note == ""


@given(st.text(min_size=2, max_size=50), st.floats(0.001, 0.999))
@settings(max_examples=200, deadline=None)
def test_tail_split_loses_nothing_and_leaves_neither_side_empty(text, fraction):
    ((training, val),) = divide(TailSplit(val_fraction=fraction), [text])
    assert training + val == text
    assert training
    assert val


@pytest.mark.parametrize("length", [10, 99, 1_115_394])
def test_tail_split_cuts_where_nanogpt_does(length):
    ((training, _),) = divide(TailSplit(val_fraction=0.1), ["é" * length])
    assert len(training) == int(length * 0.9)


def test_a_single_character_is_for_training():
    assert divide(TailSplit(val_fraction=0.5), ["x"]) == [("x", "")]


@pytest.mark.parametrize("split", [HashSplit, TailSplit])
@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_fractions_are_refused(split, fraction):
    with pytest.raises(ConfigError, match="val_fraction"):
        split(val_fraction=fraction)
