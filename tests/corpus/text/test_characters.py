"""Tables of characters: the planes that are not asked one by one hold nothing else."""

import sys
import unicodedata

import pytest

from jaxgpt.corpus.text.characters import table_of


def is_of_a_word(character: str) -> int:
    return unicodedata.category(character)[0] in "LMN"


@pytest.mark.parametrize("kind_of", [str.isspace, str.isalpha, str.isalnum, is_of_a_word])
def test_a_table_says_of_every_character_what_is_true_of_it(kind_of):
    expected = bytes(map(kind_of, map(chr, range(sys.maxunicode + 1))))
    assert table_of(kind_of).tobytes() == expected
