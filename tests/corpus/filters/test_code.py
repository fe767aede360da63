"""Rules for program files: each rejects what it is for, and nothing when it is off."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.filters.code import CodeConfig
from jaxgpt.corpus.text.batch import TextBatch

PROGRAM = "def double(number):\n    # {twice}\n    return 2 * number\n" * 10


def judge(texts: list[str], config: CodeConfig | None = None) -> list[str | None]:
    batch = TextBatch(texts=texts, urls=[""] * len(texts))
    return list((config or CodeConfig()).build()(batch).reasons)


@pytest.mark.parametrize(
    ("text", "reason", "off"),
    [
        (PROGRAM + "x = " + "a" * 1000, "code_long_line", {"max_line_characters": None}),
        (
            "\n".join(["a" * 101] * 5),
            "code_long_mean_line",
            {"max_mean_line_characters": None},
        ),
        (
            "{}();" * 10 + "abcdef12",
            "code_too_few_alphanumerics",
            {"min_alphanumeric_share": None, "min_letter_share": None},
        ),
        ("1, 2, 3, 4, 5\n" * 10, "code_too_few_letters", {"min_letter_share": None}),
        ("# AUTO-GENERATED, do not edit\n" + PROGRAM, "code_generated", {"generated_markers": ()}),
    ],
)
def test_each_rule_rejects_and_can_be_switched_off(text, reason, off):
    assert judge([text]) == [reason]
    assert judge([text], replace(CodeConfig(), **off)) == [None]


def test_a_program_passes_and_a_marker_further_down_is_no_marker():
    assert judge([PROGRAM, PROGRAM + "# auto-generated"]) == [None, None]


@given(st.lists(st.text(max_size=30), max_size=5))
@settings(max_examples=200, deadline=None)
def test_shares_are_those_of_the_naive_count(texts):
    only_letters = CodeConfig(min_alphanumeric_share=None, min_letter_share=0.5)
    expected = [
        "code_too_few_letters" if sum(map(str.isalpha, text)) < 0.5 * max(len(text), 1) else None
        for text in texts
    ]
    assert judge(texts, only_letters) == expected
