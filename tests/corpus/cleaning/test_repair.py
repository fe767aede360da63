"""Repair: the result is always valid text without control characters; every change is counted."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.cleaning.repair import RepairConfig, repair

ANY_TEXT = st.text(
    st.characters() | st.sampled_from("\ud800\udcff\r\n\t\0\ufeff\x85\x1b"), max_size=50
)


@pytest.mark.parametrize(
    ("damaged", "text", "counts"),
    [
        ("caf\udce9 \udcff", "caf\ufffd \ufffd", {"invalid_bytes": 2}),
        ("half \ud83d pair", "half \ufffd pair", {"lone_surrogates": 1}),
        ("a\r\nb\rc\n", "a\nb\nc\n", {"carriage_returns": 2}),
        ("\ufeffa\ufeffb", "ab", {"byte_order_marks": 2}),
        ("a\0b\0", "ab", {"nul": 2}),
        ("a\x1b[0m\x7f\x9fb", "a[0mb", {"control_characters": 3}),
        ("a\x0bb\x0cc\x85d", "a\nb\nc\nd", {"control_characters": 3}),
        ("a\x1cb\x1dc\x1ed\x1fe", "a\nb\nc\nd e", {"control_characters": 4}),
        ("a\x1b\x0c\x1bb", "a\nb", {"control_characters": 3}),
        ("\x0ca \x0bb\n\x0c\nc\x85", "a b\n\nc", {"control_characters": 4}),
        ("tab\tand\nnewline\u2028and\u00a0space", None, {}),
        ("e\u0301", None, {}),
        ("", "", {}),
    ],
)
def test_each_damage_is_repaired_and_counted(damaged, text, counts):
    repaired = repair(damaged, RepairConfig())
    assert repaired.text == (damaged if text is None else text)
    assert repaired.counts == counts


@given(ANY_TEXT)
@settings(max_examples=300, deadline=None)
def test_the_result_is_clean_and_repairing_it_again_changes_nothing(text):
    repaired = repair(text, RepairConfig())
    repaired.text.encode()
    for character in repaired.text:
        assert character in "\t\n" or unicodedata.category(character) not in ("Cc", "Cs")
    assert "\ufeff" not in repaired.text
    again = repair(repaired.text, RepairConfig())
    assert (again.text, again.counts) == (repaired.text, {})
    assert (repaired.counts == {}) == (repaired.text == text)


@given(ANY_TEXT)
@settings(max_examples=100, deadline=None)
def test_every_replaced_character_is_counted(text):
    repaired = repair(text, RepairConfig())
    assert repaired.num_replaced == repaired.text.count("\ufffd") - text.count("\ufffd")


def test_composition_only_where_asked():
    assert repair("e\u0301", RepairConfig(unicode_form="NFC")).text == "\u00e9"
    assert repair("e\u0301", RepairConfig(unicode_form="NFC")).counts == {"not_nfc": 1}
    assert repair("\u00e9", RepairConfig(unicode_form="NFC")).counts == {}


@given(ANY_TEXT, st.sampled_from("\x0b\x0c\x1c\x1d\x1e\x1f\x85"))
@settings(max_examples=200, deadline=None)
def test_no_words_are_glued_together(text, separator):
    kept = repair(f"before{separator}after {text}", RepairConfig()).text
    assert kept.split()[:2] == ["before", "after"]
