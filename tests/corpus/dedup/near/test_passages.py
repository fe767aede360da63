"""Passages: what has the same words and means something else stays; copies in prose go."""

import random
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.dedup.near.passages import MIN_PROSE_WORDS, words_of, write_passages
from jaxgpt.corpus.dedup.near.written_words import written_words
from jaxgpt.corpus.text import words
from tests.corpus.dedup.near.planted import make_documents, run, store

OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "^", "<<", ">>", "=="]
SHORT = "def apply(left, right):\n    return left {} right\n"
LONGER = '''def combine(first_values, second_values, scale=1.0):
    """Combine two sequences of numbers element by element and scale the result."""
    results = []
    for first, second in zip(first_values, second_values):
        results.append((first {} second) * scale)
    return results
'''
# Four functions that have their own names.
LONG_CODE = "".join(re.sub(r"([a-z]{3,})", rf"\g<1>{number}", LONGER) for number in range(4))
MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(=O)OC1CCCCC1C(=O)O",
    "CC(O)Oc1ccccc1C(=O)O",
    "C1CCCCC1",
    "c1ccccc1",
    "C1=CC=CC=C1",
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "CC(N)C(=O)O",
    "C/C=C/C",
    "C/C=C\\C",
    "CC=CC",
    "CC#CC",
    "[Na+].[Cl-]",
    "[Na].[Cl]",
]
ENGLISH = """# The Long Voyage

It was on a cold morning in March that the captain, who had slept badly, gave the order to sail;
nobody on board believed that we would be back before the winter. "We are late," he said, "and the
wind doesn't wait for us." The harbour lay behind us soon - a line of lights, and then nothing.

## What We Found There

Six weeks later we saw land: low hills, a river (brown after the rains), and smoke above the trees.
The first boat went out at noon. Its crew came back with water, fruit and a letter that had been
left for us by another ship, which had passed the same coast only two months before.
"""
CHINESE = (
    "那天早上天气很冷，船长没有睡好，但他还是下令出发；船上没有人相信我们能在冬天之前回来。"
    "他说：“我们已经晚了，风不会等我们。”港口很快就在我们身后，先是一排灯光，然后什么也没有。"
)
THAI = (
    "เช้าวันนั้นอากาศหนาวมาก กัปตันนอนไม่หลับ แต่เขาก็สั่งให้ออกเรือ ไม่มีใครบนเรือเชื่อว่าเราจะกลับมาก่อนฤดูหนาว "
    "เขาพูดว่า “เราสายแล้ว ลมไม่รอเรา” ท่าเรืออยู่ข้างหลังเราในไม่ช้า"
)


def num_left(folder: Path, texts: list[str]) -> int:
    partitions = store(folder / "documents", make_documents(texts), 3)
    found = run(folder, partitions)
    return sum(int(np.load(done.folder / "kept.npy").sum()) for done in found.results)


def draw(words: list[str], num_words: int, num_texts: int, between: str = " ") -> list[str]:
    rng = random.Random(0)
    return [between.join(rng.choices(words, k=num_words)) for _ in range(num_texts)]


@pytest.mark.parametrize(
    "texts",
    [
        [SHORT.format(operator) for operator in OPERATORS],
        [LONGER.format(operator) for operator in OPERATORS],
        MOLECULES,
        draw(["+1", "-1"], 16, 200),
        draw(["+1", "-1"], 64, 200),
        draw(["+1", "-1"], 1000, 50),
        [f"[{text}]" for text in draw(["1.0", "-1.0"], 64, 60, ", ")],
        # Not even in symbols do these differ: every 5 words are in all of them.
        draw(["0", "1"], 400, 40),
        draw(["A", "C", "G", "T"], 8000, 10),
        [
            "US",
            "us",
            "really?",
            "really!",
            "5 - 3",
            "5 + 3",
            "-5",
            "5",
            "dQw4w9WgXcQ",
            "DQW4w9WgXcQ",
        ],
    ],
)
def test_texts_that_differ_in_symbols_case_or_order_all_stay(tmp_path: Path, texts):
    assert len(set(texts)) == len(texts)
    assert num_left(tmp_path, texts) == len(texts)


@pytest.mark.parametrize(
    ("text", "copy"),
    [
        (ENGLISH, ENGLISH.replace("The Long Voyage", "THE LONG VOYAGE").title()),
        (ENGLISH, ENGLISH.replace('"', "'").replace(" - ", " — ").replace("#", "")),
        (ENGLISH, re.sub(r"[^\w\s]", "", ENGLISH)),
        (ENGLISH, re.sub(r"\b(\w{6,})\b", r"*\1*", ENGLISH)),
        (CHINESE, CHINESE.translate(str.maketrans("，。；：“”", ',.;:""'))),
        (CHINESE, CHINESE.replace("“", "「").replace("”", "」").replace("；", "。")),
        (THAI, THAI.replace("“", '"').replace("”", '"').replace(" ", "\n")),
        (LONGER, LONGER.replace('"', "'").replace("    ", "\t")),
        (LONG_CODE, LONG_CODE.replace("{}", "+", 1)),
        (f"{LONGER}\n# {ENGLISH}", f"{LONGER}\n# {ENGLISH.replace('winter', 'summer')}"),
    ],
)
def test_copies_in_other_type_are_found(tmp_path: Path, text, copy):
    assert text != copy
    assert num_left(tmp_path, [text, copy]) == 1


def naive_passages(text: str, num: int) -> set[tuple]:
    """(words, how they are written) of every passage, by plain loops."""
    pieces = re.findall(r"[^\W語]+|語|[^\w\s]|\s+", text)
    units, gap = [], ""
    for piece in [*pieces, ""]:
        if not piece or re.match(r"\w", piece):
            units.append((gap, piece))
            gap = ""
        else:
            gap += piece.strip()
    ends = [("", None)] * (num - 1)
    units = [*ends, *units, *ends[1:]]
    found = set()
    for place in range(len(units) - num + 1):
        window = units[place : place + num]
        written = (window[0][1], *window[1:])
        found.add((tuple(word and word.lower() for _, word in window), written))
    return found


@given(
    st.lists(
        st.lists(
            st.sampled_from(["ab", "Ab", "x", "語", "+", "-", " ", "\n", "(", "é"]), max_size=20
        )
        .map("".join)
        .filter(lambda text: re.search(r"\w", text)),
        min_size=2,
        max_size=6,
    ),
    st.integers(2, 6),
)
@settings(max_examples=60)
def test_texts_share_as_many_hashes_as_passages(texts, num):
    found = write_passages(texts, num)
    # Where few words repeat passages are longer.
    usual = [
        (naive_passages(text, num), hashes)
        for text, hashes in zip(texts, found, strict=True)
        if words_of(hashes).max() >= 1 << 8
    ]
    for passages, hashes in usual:
        assert len(hashes) == len(passages)
        for others, other_hashes in usual:
            assert len(np.intersect1d(hashes, other_hashes)) == len(passages & others)
            same_words = {words for words, _ in passages} & {words for words, _ in others}
            found_words = np.intersect1d(words_of(hashes), words_of(other_hashes))
            assert len(found_words) == len(same_words)
    for text, hashes in zip(texts, found, strict=True):
        np.testing.assert_array_equal(write_passages([text], num)[0], hashes)


@pytest.mark.parametrize("chunk", [64, 100, 1000])
def test_a_long_text_in_pieces_has_the_same_passages(monkeypatch, chunk):
    code = " ".join(f"f{number}({number}, n)-Ab;" for number in range(200))
    texts = ["short", code, "", f"[{code} {code}]", "- 1", "甲，乙。" * 50]
    whole = write_passages(texts, 5)
    monkeypatch.setattr(words, "_CHUNK_CHARACTERS", chunk)
    for one, other in zip(whole, write_passages(texts, 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_white_space_and_variants_of_type_are_one():
    for one, other in (
        ("f( a ,b)", "f(a, b)"),
        ("say “it’s”", 'say "it\'s"'),
        ("a – b", "a - b"),
        ("甲，乙。", "甲,乙."),
        ("甲（乙）！", "甲(乙)!"),
    ):
        first, second = write_passages([one, other], 5)
        np.testing.assert_array_equal(first, second)
        assert len(first)


def test_every_symbol_counts_the_same_wherever_it_stands():
    names = [f"w{number}" for number in range(20)]
    plain = write_passages([" ".join(names)], 5)[0]
    assert len(plain) == 24
    for place in range(21):
        text = " ".join([*names[:place], "+", *names[place:]])
        assert len(np.intersect1d(write_passages([text], 5)[0], plain)) == 20


def test_only_long_texts_in_natural_language_have_none():
    prose = [ENGLISH, CHINESE, THAI, " ".join(f"word{n}" for n in range(MIN_PROSE_WORDS))]
    assert [len(each) for each in write_passages([*prose, "", "?!"], 5)] == [0] * 6
    other = [LONGER, "a b c", " ".join(map(str, range(100))), "ab " * 100]
    assert all(len(each) for each in write_passages(other, 5))


def test_every_character_keeps_its_place_in_lower_case():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    letters = [each for each in characters if unicodedata.category(each)[0] == "L"][:20000]
    texts = ["x".join(letters), "İstanbul Straße ΌΣΟΣ"]
    (first, second) = written_words(texts)
    assert first.num_words > 0
    assert second.num_words == 3


def test_rows_of_tables_and_lists_are_not_taken_for_text_of_few_words():
    rng = random.Random(0)
    names = ["".join(rng.choices("abcdefgh", k=8)) for _ in range(30)]
    links = [(rng.choice(names), rng.choice(names)) for _ in range(60)]
    rows = [f'<li><a href="/docs/{one}/page"><code>{two}</code></a></li>' for one, two in links]
    edited = [*rows]
    edited[7] = edited[7].replace("docs", "pages")
    first, second = write_passages(["\n".join(rows), "\n".join(edited)], 5)
    assert words_of(first).max() > 1 << 8
    shared = np.isin(words_of(second), words_of(first)).sum()
    assert np.isin(second, first).sum() == shared >= 0.9 * len(second)
