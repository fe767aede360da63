"""Scripts: letters counted for whole batches as one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.text.scripts import BLOCKS, SCRIPTS, is_spaced, is_spaced_text, letters_by_script
from jaxgpt.corpus.text.words import unicode_words

LETTERS = st.sampled_from("aZ7 é×Ж日かアกΩא한\n")


def naive_letters(text: str) -> list[int]:
    return [
        sum(
            any(first <= ord(character) <= last for first, last in BLOCKS[script])
            and character not in "×÷"
            for character in text
        )
        for script in SCRIPTS
    ]


@given(st.lists(st.text(st.characters() | LETTERS, max_size=30), max_size=6))
@settings(max_examples=300, deadline=None)
def test_letters_are_those_of_the_naive_count(texts):
    counts_DS = letters_by_script(texts)
    assert counts_DS.tolist() == [naive_letters(text) for text in texts]
    assert is_spaced_text(texts).tolist() == is_spaced(counts_DS).tolist()


def test_scripts_without_spaces():
    texts = ["words", "日本語のテキスト", "ภาษาไทย", "한국어 문장", "日本 ab", "日本 abc", "", "12"]
    expected = [True, False, False, True, True, True, True, True]
    assert is_spaced(letters_by_script(texts)).tolist() == expected


@given(st.characters(categories=["Lo", "Lm"]))
@settings(max_examples=500, deadline=None)
def test_every_letter_without_spaces_is_a_word_of_its_own(letter):
    is_unspaced = not is_spaced(letters_by_script([letter]))[0]
    (num_words,) = unicode_words([3 * letter]).counts_D
    assert num_words == (3 if is_unspaced else 1)


def test_half_width_katakana_is_without_spaces():
    assert not is_spaced(letters_by_script(["\uff76\uff80\uff76\uff85"]))[0]
    assert unicode_words(["\uff76\uff80\uff76\uff85"]).counts_D.tolist() == [4]
