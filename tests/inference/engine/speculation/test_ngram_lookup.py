"""Looking up the last tokens of a text in the text itself."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxgpt.errors import ConfigError
from jaxgpt.inference.engine.speculation.ngram_lookup import NgramLookup, find_continuation


def look(text: str, longest: int = 3, shortest: int = 1, number: int = 4) -> str:
    ids = np.array([ord(each) for each in text], np.int64)
    return "".join(map(chr, find_continuation(ids, longest, shortest, number)))


def test_it_continues_as_the_text_did_before() -> None:
    assert look("the cat sat; the c") == "at s"
    # The longest ending decides, then the last place.
    assert look("abcX bcY cZ abc", longest=3) == "X bc"
    assert look("abcX abcY abc", longest=2) == "Y ab"
    assert look("xab yb b", longest=1, number=2) == " b"
    # A repetition goes on.
    assert look("-----") == "----"
    assert look("abcabcab", number=7) == "cabcabc"
    assert look("abcdb", shortest=2) == ""
    assert look("abc") == look("a") == look("") == ""
    assert look("abab", number=0) == ""


def find_slowly(ids: list[int], longest: int, shortest: int, number: int) -> list[int]:
    for length in range(longest, shortest - 1, -1):
        for start in range(len(ids) - length - 1, -1, -1):
            if length < len(ids) and ids[start : start + length] == ids[-length:]:
                copied = list(ids)
                for place in range(start + length, start + length + number):
                    copied.append(copied[place])
                return copied[len(ids) :]
    return []


@given(
    st.lists(st.integers(0, 2), max_size=12),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_it_is_a_search_for_the_longest_ending(
    ids: list[int], longest: int, shortest: int, number: int
) -> None:
    shortest = min(shortest, longest)
    found = find_continuation(np.array(ids, np.int64), longest, shortest, number)
    assert found == find_slowly(ids, longest, shortest, number)


def test_lengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="shortest must be from 1 to longest = 2, not 3"):
        NgramLookup(longest=2, shortest=3)
    with pytest.raises(ConfigError, match="most must be at least 1, not 0"):
        NgramLookup(most=0)
