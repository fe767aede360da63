"""C4: which lines go, which documents, and what is left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.filters.c4 import C4Config
from jaxgpt.corpus.text.batch import Judged, TextBatch

LINES = [f"This is line number {number} of the page." for number in range(6)]
PAGE = "\n".join(LINES)


def apply(text: str, config: C4Config | None = None) -> Judged:
    return (config or C4Config()).build()(TextBatch(texts=[text], urls=[""]))


@pytest.mark.parametrize(
    ("line", "kind", "off"),
    [
        ("two words", "lines_with_few_words", {"min_words_per_line": None}),
        ("a word " + "x" * 1001 + " is long", "lines_with_long_word", {"max_word_length": None}),
        (
            "Please enable JavaScript to see this.",
            "lines_with_javascript",
            {"remove_javascript_lines": False},
        ),
        ("Read our Privacy Policy here.", "lines_with_policy", {"policy_phrases": ()}),
    ],
)
def test_a_line_goes_and_is_counted_unless_its_rule_is_off(line, kind, off):
    text = f"{PAGE}\n  {line} \n{LINES[0]}"
    judged = apply(text)
    assert judged.texts == [f"{PAGE}\n{LINES[0]}"]
    assert (list(judged.reasons), judged.counts) == ([None], {kind: 1})
    kept = apply(text, replace(C4Config(), **off))
    assert kept.texts == [f"{PAGE}\n{line}\n{LINES[0]}"]
    assert kept.counts == {}


def test_lines_without_terminal_punctuation_stay_unless_asked():
    text = PAGE + "\nno mark at its end\nand so on it goes..."
    assert apply(text).texts == [text]
    strict = apply(text, C4Config(require_terminal_punctuation=True))
    assert strict.texts == [PAGE]
    assert strict.counts == {"lines_without_terminal_punctuation": 2}


def test_citations_are_taken_out():
    judged = apply(PAGE + "\nAs is known.[12] It is so.[edit] Or not.[citation needed][] [a]")
    assert judged.texts == [PAGE + "\nAs is known. It is so. Or not. [a]"]
    assert judged.counts == {"citations": 4}
    assert apply(PAGE + "[1]", C4Config(remove_citations=False)).texts == [PAGE + "[1]"]


@pytest.mark.parametrize(
    ("text", "reason", "off"),
    [
        (PAGE + "\nif (x) { return y; }", "c4_curly_bracket", {"forbid_curly_bracket": False}),
        (PAGE + "\nLorem Ipsum dolor sit.", "c4_lorem_ipsum", {"forbid_lorem_ipsum": False}),
        ("\n".join(LINES[:4]), "c4_too_few_sentences", {"min_sentences": None}),
    ],
)
def test_a_document_goes_unedited_unless_its_rule_is_off(text, reason, off):
    judged = apply(text + "\nno")
    assert list(judged.reasons) == [reason]
    assert (judged.texts, judged.counts) == ([text + "\nno"], {})
    assert list(apply(text, replace(C4Config(), **off)).reasons) == [None]


def test_sentences_within_lines_count():
    assert list(apply("One. Two! Three? (Four.) Five").reasons) == [None]
    assert list(apply("One. Two! Three? Version 4.5 is out").reasons) == ["c4_too_few_sentences"]


@given(st.text(st.sampled_from("ab \n[."), max_size=80), st.sampled_from([None, 1, 3]))
@settings(max_examples=200, deadline=None)
def test_lines_are_judged_one_by_one(text, min_words):
    config = C4Config(max_word_length=4, min_words_per_line=min_words, min_sentences=None)
    lines = [line.strip() for line in text.split("\n")]
    short = [line for line in lines if max(map(len, line.split()), default=0) <= 4]
    kept = [line for line in short if len(line.split()) >= (min_words or 0)]
    judged = apply(text, config)
    assert judged.texts == ["\n".join(kept).strip()]
    expected = {
        "lines_with_long_word": len(lines) - len(short),
        "lines_with_few_words": len(short) - len(kept),
    }
    assert judged.counts == {kind: number for kind, number in expected.items() if number}


def test_text_without_spaces_keeps_its_lines():
    text = "人人生而自由。\n在尊严和权利上一律平等。"
    assert apply(text).texts == [text]
    assert list(apply(text).reasons) == [None]


@given(st.lists(st.text(st.sampled_from("ab .\n[1]{"), max_size=60), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_what_is_left_is_left_alone_and_depends_on_no_other_document(texts):
    config = C4Config(min_sentences=None)
    judged = config.build()(TextBatch(texts=texts, urls=[""] * len(texts)))
    assert judged.texts is not None
    assert judged.texts == [(apply(text, config).texts or [""])[0] for text in texts]
    for edited, reason in zip(judged.texts, judged.reasons, strict=True):
        assert reason == ("c4_curly_bracket" if reason else None)
        if reason is None:
            for line in edited.split("\n") if edited else []:
                assert line == line.strip()
                assert "{" not in line
