"""FineWeb's rules beside a naive count, and one page for each."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.filters.fineweb import FineWebConfig
from jaxgpt.corpus.text.batch import TextBatch

LONG = "This line is long enough to be one of a text, number {} of them."
PAGE = "\n".join(LONG.format(number) for number in range(10))
TEXT = st.lists(st.sampled_from(["ab", "c.", "d" * 31, " ", "\n", "\n\n"]), max_size=40).map(
    "".join
)


def judge(text: str, config: FineWebConfig) -> str | None:
    return config.build()(TextBatch(texts=[text], urls=[""])).reasons[0]


def naive_reason(text: str, config: FineWebConfig) -> str | None:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        lines = [""]
    if sum(line.endswith(".") for line in lines) / len(lines) < config.min_punctuated_line_share:
        return "fineweb_too_few_punctuated_lines"
    if sum(len(line) <= 30 for line in lines) / len(lines) > config.max_short_line_share:
        return "fineweb_too_many_short_lines"
    duplicates = sum(len(line) for place, line in enumerate(lines) if line in lines[:place])
    length = max(len(text.replace("\n", "")), 1)
    if duplicates / length > config.max_duplicate_line_character_share:
        return "fineweb_duplicate_line_characters"
    if text.count("\n") / max(len(text.split()), 1) > config.max_newlines_per_word:
        return "fineweb_too_many_newlines"
    return None


@given(TEXT, *[st.sampled_from([0.0, 0.1, 0.4, 1.0]) for _ in range(4)])
@settings(max_examples=300, deadline=None)
def test_verdicts_are_those_of_the_naive_rules(text, punctuated, short, duplicate, newlines):
    config = FineWebConfig(
        min_punctuated_line_share=punctuated,
        max_short_line_share=short,
        max_duplicate_line_character_share=duplicate,
        max_newlines_per_word=newlines,
    )
    if text.strip():
        assert judge(text, config) == naive_reason(text, config)


@pytest.mark.parametrize(
    ("text", "reason", "rule"),
    [
        (
            PAGE.replace("them.", "them"),
            "fineweb_too_few_punctuated_lines",
            "min_punctuated_line_share",
        ),
        ("A short line.\nAnother one.", "fineweb_too_many_short_lines", "max_short_line_share"),
        (
            PAGE + "\n" + PAGE,
            "fineweb_duplicate_line_characters",
            "max_duplicate_line_character_share",
        ),
        (PAGE.replace(" ", "-"), "fineweb_too_many_newlines", "max_newlines_per_word"),
    ],
)
def test_each_rule_rejects_and_can_be_switched_off(text, reason, rule):
    config = FineWebConfig()
    assert judge(text, config) == reason
    # Two short lines have few words for their line end, too.
    both = {rule: None, "max_newlines_per_word": None}
    assert judge(text, replace(config, **both)) is None


def test_a_page_of_sentences_passes():
    assert judge(PAGE, FineWebConfig()) is None
