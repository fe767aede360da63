"""Words: the same as those of a plain loop over characters, whatever the batch is made of."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.text import words as words_module
from jaxgpt.corpus.text.scripts import UNSPACED_BLOCKS
from jaxgpt.corpus.text.words import (
    Words,
    find_words,
    neighbours,
    space_separated_words,
    unicode_words,
)
from tests.languages import LANGUAGES

TEXTS = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.text("ab_1 \n.\u0301é語ไ\U00020000\x1c\x85\u2028\u3000", max_size=30),
        st.text("aA ", max_size=60),
    ),
    max_size=8,
)


def naive_unicode_words(text: str) -> list[str]:
    """Letter by letter; every character of a script without spaces is a word."""
    found, word = [], ""
    for character in text.lower():
        category = unicodedata.category(character)
        is_part = category[0] in "LMN" or category == "Pc"
        code = ord(character)
        alone = is_part and any(first <= code <= last for first, last in UNSPACED_BLOCKS)
        if is_part and not alone:
            word += character
            continue
        found += [word] * bool(word) + [character] * alone
        word = ""
    return found + [word] * bool(word)


def of_document(words: Words, document: int) -> list[int]:
    return words.hashes_W[words.offsets_D1[document] : words.offsets_D1[document + 1]].tolist()


def check(words: Words, expected: list[list[str]], hash_of) -> None:
    name_of: dict[int, str] = {}
    assert words.counts_D.tolist() == [len(each) for each in expected]
    assert words.lengths_W.tolist() == [len(word) for each in expected for word in each]
    for document, each in enumerate(expected):
        for hash, word in zip(of_document(words, document), each, strict=True):
            assert name_of.setdefault(hash, word) == word
            assert hash == hash_of(word)


@given(TEXTS)
@settings(max_examples=200)
def test_unicode_words_are_those_of_a_plain_loop(texts):
    check(
        unicode_words(texts),
        [naive_unicode_words(text) for text in texts],
        lambda word: int(unicode_words([word]).hashes_W[0]),
    )


@given(TEXTS)
@settings(max_examples=200)
def test_space_separated_words_are_those_of_split(texts):
    check(
        space_separated_words(texts),
        [text.split() for text in texts],
        lambda word: int(space_separated_words([word]).hashes_W[0]),
    )


@given(TEXTS, st.integers(1, 5))
@settings(max_examples=100)
def test_neighbours_are_windows_within_a_document(texts, num):
    words = unicode_words(texts)
    hashes, offsets = neighbours(words, num)
    of_window: dict[tuple[int, ...], int] = {}
    for document in range(len(texts)):
        each = of_document(words, document)
        windows = [tuple(each[i : i + num]) for i in range(len(each) - num + 1)]
        found = hashes[offsets[document] : offsets[document + 1]].tolist()
        assert len(found) == len(windows)
        for window, hash in zip(windows, found, strict=True):
            assert of_window.setdefault(window, hash) == hash
    assert len(set(of_window.values())) == len(of_window)
    assert offsets[-1] == len(hashes)


@given(TEXTS, st.sets(st.sampled_from(["a", "b", "ab", "語", "_", "1", "none"]), min_size=1))
@settings(max_examples=100)
def test_words_are_found_wherever_they_occur(texts, wanted):
    hash_of = {word: int(space_separated_words([word]).hashes_W[0]) for word in wanted}
    names = sorted(wanted, key=lambda word: hash_of[word])
    hashes = np.array(sorted(hash_of.values()), np.uint64)
    places, which = find_words(space_separated_words(texts), hashes)
    every = [word for text in texts for word in text.split()]
    expected = [(place, word) for place, word in enumerate(every) if word in wanted]
    found = zip(places.tolist(), which.tolist(), strict=True)
    assert [(place, names[number]) for place, number in found] == expected


@given(st.text("ab é\n", max_size=60), st.integers(4, 20))
@settings(max_examples=150)
def test_a_long_document_is_cut_at_spaces(text, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_CHUNK_CHARACTERS", chunk)
        words_module._powers.cache_clear()
        pieces = unicode_words([text, "x", text])
    words_module._powers.cache_clear()
    whole = unicode_words([text, "x", text])
    if all(len(word) < chunk for word in naive_unicode_words(text)):
        np.testing.assert_array_equal(pieces.hashes_W, whole.hashes_W)
        np.testing.assert_array_equal(pieces.offsets_D1, whole.offsets_D1)
    assert of_document(pieces, 0) == of_document(pieces, 2)


def test_case_does_not_count_and_every_language_has_words():
    for name, text in LANGUAGES.items():
        words = unicode_words([text, text.upper().lower(), f"«{text}»"])
        assert words.counts_D[0] >= 4, name
        assert of_document(words, 0) == of_document(words, 2), name
        assert len(set(of_document(words, 0))) > 0.3 * words.counts_D[0], name


def test_hashes_do_not_depend_on_the_machine_or_the_version():
    # Stored signatures rely on these values.
    hashes = unicode_words(["The quick brown fox", "语言"]).hashes_W
    windows, _ = neighbours(unicode_words(["one two three four five"]), 5)
    assert [f"{hash:016x}" for hash in (*hashes[:2], hashes[-1], windows[0])] == [
        "f0e0f33ba7a705cd",
        "6becd07e581efff8",
        "949bad750f0173cb",
        "019f70071bb56836",
    ]
