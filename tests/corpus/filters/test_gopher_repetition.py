"""Repetition: the arithmetic on whole batches says what reading text by text says."""

import gzip
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.filters.gopher_repetition import GopherRepetitionConfig
from jaxgpt.corpus.filters.repeated_n_grams import (
    bound_top_characters,
    covered_characters,
    duplicate_characters,
    find_repeats,
    top_characters,
)
from jaxgpt.corpus.filters.text_patterns import count_duplicates, split_paragraphs
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.corpus.text.words import space_separated_words

# Few different words, so that they repeat; words of several lengths; everything that separates.
TEXT = st.lists(
    st.sampled_from(["a", "b", "ab", "ccc", "é", "日本", " ", "  ", "\n", "\n\n", "\n\n\n", "\t"]),
    max_size=60,
).map("".join)
SPACED = st.lists(st.sampled_from(["a", "b", "the", "ccc ccc", "\n"]), max_size=80).map(" ".join)
TEXTS = st.lists(TEXT | SPACED, min_size=1, max_size=6)
OFF = GopherRepetitionConfig(**dict.fromkeys(GopherRepetitionConfig.__dataclass_fields__))


def naive_top(text: str, num: int) -> int:
    words = text.split()
    n_grams = [" ".join(words[i : i + num]) for i in range(len(words) - num + 1)]
    if not n_grams:
        return 0
    top, times = Counter(n_grams).most_common(1)[0]
    return len(top) * times


def naive_duplicates(text: str, num: int) -> int:
    words, known, characters, place = text.split(), set(), 0, 0
    while place + num <= len(words):
        n_gram = tuple(words[place : place + num])
        if n_gram in known:
            characters += sum(map(len, n_gram))
            place += num
        else:
            known.add(n_gram)
            place += 1
    return characters


def naive_blocks(blocks: list[str]) -> tuple[int, int]:
    known, num, characters = set(), 0, 0
    for block in blocks:
        if block in known:
            num, characters = num + 1, characters + len(block)
        known.add(block)
    return num, characters


def naive_reason(text: str, config: GopherRepetitionConfig) -> str | None:
    length = max(len(text), 1)
    paragraphs = [part for part in re.split(r"\n{2,}", text.strip()) if part]
    lines = [line for line in text.split("\n") if line]
    values = []
    for kind, blocks in (("paragraph", paragraphs), ("line", lines)):
        num, characters = naive_blocks(blocks)
        values += [
            (f"max_duplicate_{kind}_share", num / max(len(blocks), 1), f"duplicate_{kind}s"),
            (
                f"max_duplicate_{kind}_character_share",
                characters / length,
                f"duplicate_{kind}_characters",
            ),
        ]
    unspaced = sum(character in "日本" for character in text)
    if unspaced * 2 <= sum(map(str.isalpha, text)):
        for num in (2, 3, 4):
            values.append(
                (f"max_top_{num}_gram_share", naive_top(text, num) / length, f"top_{num}_gram")
            )
        for num in range(5, 11):
            share = naive_duplicates(text, num) / length
            values.append((f"max_duplicate_{num}_gram_share", share, f"duplicate_{num}_grams"))
    for name, value, reason in values:
        limit = getattr(config, name)
        if limit is not None and value > limit:
            return f"gopher_{reason}"
    return None


def judge(texts: list[str], config: GopherRepetitionConfig) -> list[str | None]:
    return list(config.build()(TextBatch(texts=texts, urls=[""] * len(texts))).reasons)


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_characters_in_n_grams_are_those_of_the_naive_count(texts):
    words = space_separated_words(texts)
    everyone = np.arange(len(texts))
    for num in (2, 3, 4):
        top = top_characters(find_repeats(words, num))
        assert top.tolist() == [naive_top(text, num) for text in texts]
        assert (2 * bound_top_characters(words) >= top).all()
    covered_before = None
    for num in range(5, 11):
        repeats = find_repeats(words, num)
        duplicates = duplicate_characters(repeats, everyone)
        assert duplicates.tolist() == [naive_duplicates(text, num) for text in texts]
        covered = covered_characters(repeats)
        assert (covered >= duplicates).all()
        assert covered_before is None or (covered <= covered_before).all()
        covered_before = covered


@given(TEXT)
@settings(max_examples=300, deadline=None)
def test_paragraphs_and_lines_are_those_of_the_naive_count(text):
    paragraphs = [part for part in re.split(r"\n{2,}", text.strip()) if part]
    assert split_paragraphs(text) == paragraphs
    assert count_duplicates(paragraphs) == naive_blocks(paragraphs)


@given(
    TEXTS,
    st.sampled_from([0.0, 0.05, 0.15, 0.3, 0.6]),
    st.sets(st.sampled_from(sorted(GopherRepetitionConfig.__dataclass_fields__))),
)
@settings(max_examples=300, deadline=None)
def test_verdicts_are_those_of_the_naive_rules_whatever_is_switched_off(texts, share, on):
    config = replace(OFF, **dict.fromkeys(on, share))
    assert judge(texts, config) == [naive_reason(text, config) for text in texts]


def test_the_published_thresholds_judge_as_the_naive_rules(shared_data):
    with gzip.open(shared_data / "corpus" / "rust-book.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"][:6000] for line in file][:150]
    texts += [text[:500] * 3 for text in texts[:10]]
    reasons = judge(texts, GopherRepetitionConfig())
    assert reasons == [naive_reason(text, GopherRepetitionConfig()) for text in texts]
    assert len(set(reasons)) >= 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one line here\nand one\n" * 5, "gopher_duplicate_lines"),
        ("a first paragraph\n\n" * 5, "gopher_duplicate_paragraphs"),
        ("yes no " * 60, "gopher_top_2_gram"),
        ("", None),
        ("\n\n\n", None),
    ],
)
def test_examples(text, reason):
    assert judge([text], GopherRepetitionConfig()) == [reason]


def test_words_are_not_looked_for_where_nothing_separates_them():
    text = "我们在这里说同样的话 " * 30
    assert judge([text], GopherRepetitionConfig()) == [None]
