"""Quality: each rule rejects what it is for, and nothing when it is off."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.filters.gopher_quality import GopherQualityConfig, word_shapes
from jaxgpt.corpus.filters.text_patterns import SYMBOLS
from jaxgpt.corpus.text.batch import TextBatch

PROSE = "The man that you have to be with is one of the best and the most honest here. " * 6
ANY_TEXT = st.text(st.characters() | st.sampled_from(" \n\t-•….#abcé日\u3000\x85"), max_size=60)


def judge(text: str, config: GopherQualityConfig | None = None) -> str | None:
    step = (config or GopherQualityConfig()).build()
    return step(TextBatch(texts=[text], urls=[""])).reasons[0]


@given(st.lists(ANY_TEXT, max_size=5))
@settings(max_examples=300, deadline=None)
def test_word_shapes_are_those_of_the_naive_count(texts):
    shapes = word_shapes(texts)
    for document, text in enumerate(texts):
        words = text.split()
        plain = [word for word in words if any(character not in SYMBOLS for character in word)]
        assert shapes.num_D[document] == len(plain)
        assert shapes.characters_D[document] == sum(map(len, plain))
        lettered = sum(any(map(str.isalpha, word)) for word in words)
        assert shapes.num_with_letter_D[document] == lettered


@pytest.mark.parametrize(
    ("text", "reason", "rule"),
    [
        ("The few words of the text.", "gopher_too_few_words", "min_words"),
        (PROSE * 1200, "gopher_too_many_words", "max_words"),
        ("to be of a " * 30, "gopher_short_words", "min_mean_word_length"),
        (
            "the and unpronounceability unpronounceability " * 30,
            "gopher_long_words",
            "max_mean_word_length",
        ),
        (PROSE + "# " * 15, "gopher_too_many_hashes", "max_hashes_per_word"),
        (PROSE + "so... " * 30 + "on.", "gopher_too_many_ellipses", "max_ellipses_per_word"),
        (
            re.sub(r"(?m)^", "- ", PROSE.replace(". ", ".\n").strip()),
            "gopher_too_many_bullet_lines",
            "max_bullet_line_share",
        ),
        (
            PROSE.replace(". ", "...\n").replace("...", "…", 3) + "and of the other side " * 4,
            "gopher_too_many_ellipsis_lines",
            "max_ellipsis_line_share",
        ),
        (PROSE + "2024 " * 40, "gopher_too_few_words_with_letters", "min_letter_word_share"),
        ("lorem ipsum dolor sit amet " * 20, "gopher_too_few_stop_words", "min_stop_words"),
    ],
)
def test_each_rule_rejects_and_can_be_switched_off(text, reason, rule):
    assert judge(text) == reason
    assert judge(text, replace(GopherQualityConfig(), **{rule: None})) is None


def test_prose_passes():
    assert judge(PROSE) is None
    assert judge(PROSE.replace(". ", ".\n")) is None


def test_stop_words_are_counted_once_each():
    text = "the " * 10 + "prose without them " * 20
    assert judge(text) == "gopher_too_few_stop_words"
    assert judge(text + " to") is None


def test_a_line_end_at_the_end_begins_no_line():
    config = replace(GopherQualityConfig(), max_bullet_line_share=0.5)
    half = PROSE + "\n- " + PROSE
    assert judge(half, config) is None
    assert judge(half + "\n- more of that", config) == "gopher_too_many_bullet_lines"
    assert judge(half + "\n", config) is None


def test_text_without_spaces_is_not_held_to_counts_of_words():
    assert judge("人人生而自由,在尊严和权利上一律平等。" * 3) is None


@given(st.lists(ANY_TEXT, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_document_is_judged_alike_alone_and_among_others(texts):
    config = replace(GopherQualityConfig(), min_words=1, max_bullet_line_share=0.3)
    together = config.build()(TextBatch(texts=texts, urls=[""] * len(texts))).reasons
    assert list(together) == [judge(text, config) for text in texts]
