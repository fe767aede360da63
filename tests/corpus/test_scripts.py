"""Scripts: letters counted for whole batches as one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.scripts import BLOCKS, SCRIPTS, is_spaced, is_spaced_text, letters_by_script

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
