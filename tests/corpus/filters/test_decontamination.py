"""Decontamination: a shared run of words is found, a shorter one is not, and items are counted."""

import errno
import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.filters import decontamination, evaluation_texts
from jaxgpt.corpus.filters.decontamination import (
    BENCHMARK_OVERLAP,
    DecontaminationConfig,
    summarize,
)
from jaxgpt.corpus.filters.evaluation_texts import item_texts, read_benchmark
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.corpus.text.words import unicode_words
from jaxgpt.errors import BadInputError, ConfigError, JaxgptError, UsageError

WORDS = [f"word{number}" for number in range(40)]


def write(path: Path, *items) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return str(path)


def judge(config: DecontaminationConfig, texts: list[str]):
    (step,) = config.build()
    assert step.stage == "decontamination"
    return pickle.loads(pickle.dumps(step))(TextBatch(texts=texts, urls=[""] * len(texts)))


@given(
    st.lists(st.text("ab ", max_size=12), min_size=1, max_size=6),
    st.lists(st.text("aB .", max_size=12), max_size=6),
    st.integers(1, 4),
)
@settings(max_examples=150)
def test_what_is_found_is_what_shares_an_ngram(tmp_path_factory, items, texts, ngram):
    def ngrams(text: str) -> set[tuple[str, ...]]:
        words = text.lower().replace(".", " ").split()
        return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}

    path = write(tmp_path_factory.mktemp("items") / "items.jsonl", *({"text": t} for t in items))
    config = DecontaminationConfig(files=(path,), ngram=ngram)
    judged = judge(config, texts)
    hits = [[n for n, item in enumerate(items) if ngrams(item) & ngrams(text)] for text in texts]
    assert [reason is not None for reason in judged.reasons] == [bool(found) for found in hits]
    assert summarize(config, judged.counts) == [
        {
            "file": path,
            "num_items": len(items),
            "num_checkable_items": sum(bool(ngrams(item)) for item in items),
            "num_items_found": len({n for found in hits for n in found}),
            "num_documents_hit": sum(map(bool, hits)),
        }
    ]


def test_thirteen_words_are_found_in_any_spelling_and_twelve_are_not(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": " ".join(WORDS)}, {"text": "too short"})
    config = DecontaminationConfig(files=(path,))
    texts = [
        "Before. " + ", ".join(WORDS[5:18]).upper() + "! After.",
        "Before. " + " ".join(WORDS[5:17]) + " after",
        " ".join(reversed(WORDS)),
        "",
    ]
    judged = judge(config, texts)
    assert judged.reasons == [BENCHMARK_OVERLAP, None, None, None]
    assert judged.texts is None
    (found,) = summarize(config, judged.counts)
    assert (found["num_items"], found["num_checkable_items"], found["num_items_found"]) == (2, 1, 1)


def test_reporting_drops_nothing_and_counts_the_same(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": " ".join(WORDS)})
    texts = [" ".join(WORDS), "other"]
    dropped = judge(DecontaminationConfig(files=(path,)), texts)
    reported = judge(DecontaminationConfig(files=(path,), action="report"), texts)
    assert reported.reasons == [None, None]
    assert reported.counts == dropped.counts
    assert sum(dropped.counts.values()) == 2


def test_counts_of_batches_add_up_to_those_of_the_corpus(tmp_path):
    one = write(tmp_path / "one.jsonl", {"text": " ".join(WORDS[:20])}, {"text": "x " * 13})
    two = write(tmp_path / "two.jsonl", {"text": " ".join(WORDS[5:])})
    config = DecontaminationConfig(files=(one, two))
    counts: Counter[str] = Counter()
    for text in (" ".join(WORDS), " ".join(WORDS[3:19]), " ".join(WORDS[25:])):
        counts.update(judge(config, [text]).counts)
    found = {each["file"]: each for each in summarize(config, counts)}
    assert (found[one]["num_items_found"], found[one]["num_documents_hit"]) == (1, 2)
    assert (found[two]["num_items_found"], found[two]["num_documents_hit"]) == (1, 3)


def test_changed_files_are_read_again(tmp_path):
    config = DecontaminationConfig(files=(write(tmp_path / "a.jsonl", {"text": "x " * 13}),))
    assert judge(config, [" ".join(WORDS)]).reasons == [None]
    write(tmp_path / "a.jsonl", {"text": " ".join(WORDS)})
    assert judge(config, [" ".join(WORDS)]).reasons == [BENCHMARK_OVERLAP]


def test_without_files_there_is_no_step():
    assert DecontaminationConfig().build() == ()
    assert summarize(DecontaminationConfig(), {}) == []


@pytest.mark.parametrize(
    ("item", "texts"),
    [
        ({"query": "Q", "choices": ["a", "b"], "gold": 1}, ["Q a", "Q b"]),
        ({"context": "C", "continuation": "c"}, ["C c"]),
        ({"context_options": ["X", "Y"], "continuation": "c", "gold": 0}, ["X c", "Y c"]),
        ({"question": "Q", "answer": "A", "id": 7}, ["Q A"]),
        ({"prompt": "P", "canonical_solution": "S", "test": "T"}, ["P S", "T"]),
        ({"Question": "Q", "Best Answer": "A", "Type": "t"}, ["Q A", "t"]),
        ({"question": "Q", "mc1_targets": {"yes": 1, "no": 0}}, ["Q yes", "Q no"]),
        ({"question": "Q"}, ["Q"]),
        ({"messages": [{"role": "user", "content": "hello"}]}, ["user", "hello"]),
        ("only text", ["only text"]),
    ],
)
def test_an_item_is_joined_as_it_is_read(item, texts):
    assert item_texts(item) == texts


@pytest.mark.parametrize(
    ("name", "content", "items"),
    [
        ("a.jsonl", '{"a": "x"}\n\n{"a": "y\u2028z"}\n', [["x"], ["y\u2028z"]]),
        ("a.json", '[{"a": "x"}, {"a": "y"}]', [["x"], ["y"]]),
        ("a.json", '{"version": "1", "data": [{"a": "x"}]}', [["x"]]),
        ("a.json", '{"a": "x"}', [["x"]]),
        ("a.csv", 'question,answer\n"a, b",c\n"d\ne",f\n', [["a, b c"], ["d\ne f"]]),
        ("a.txt", "one\ntwo\n \nthree\n", [["one\ntwo\n"], ["three\n"]]),
        ("a.TXT", "\ufeffone", [["one"]]),
        ("a.jsonl", "", []),
    ],
)
def test_items_of_each_format(tmp_path, name, content, items):
    (tmp_path / name).write_bytes(content.encode())
    assert list(read_benchmark(tmp_path / name)) == items


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n', BadInputError, r"a\.jsonl:2 is not JSON"),
        ("a.json", b"[" * 200_000, BadInputError, r"a\.json is not JSON"),
        ("a.txt", b"caf\xe9", BadInputError, "not UTF-8"),
        ("a.xlsx", b"PK", UsageError, r"allowed: \.jsonl, \.json, \.csv, \.txt, \.parquet"),
        ("a.parquet", b"PAR1", BadInputError, r"a\.parquet is not Parquet"),
        ("a.txt", b"x" * 101, BadInputError, r"a\.txt:1 has 101 characters; at most 100"),
        ("a.txt", b"x\n" * 5000, BadInputError, r"has 10000 bytes; at most 9000"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, monkeypatch, name, content, error, message):
    monkeypatch.setattr(evaluation_texts, "MAX_ITEM_CHARACTERS", 100)
    size = 9000 if name == "a.txt" else 1 << 30
    monkeypatch.setattr(evaluation_texts, "MAX_FILE_BYTES", size)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        list(read_benchmark(tmp_path / name))


def test_a_file_that_the_machine_does_not_open_is_no_missing_one(tmp_path, monkeypatch):
    path = write(tmp_path / "items.jsonl", {"text": "one"})

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(decontamination.os, "stat", refuse)
    with pytest.raises(JaxgptError, match=r"items\.jsonl: Permission denied") as caught:
        DecontaminationConfig(files=(path,)).build()
    assert caught.value.exit_code == 1


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match=r"absent\.jsonl"):
        DecontaminationConfig(files=(path,)).build()
    with pytest.raises(ConfigError, match="twice"):
        DecontaminationConfig(files=(path, path))


def test_every_evaluation_file_is_read_and_finds_itself(shared_data: Path):
    files = tuple(map(str, sorted((shared_data / "eval").iterdir())))
    config = DecontaminationConfig(files=files)
    (step,) = config.build()
    for name in files:
        items = list(read_benchmark(name))
        assert len(items) > 100
        texts = ["Preface. " + max(texts, key=len) + " The end." for texts in items[:200]]
        judged = step(TextBatch(texts=texts, urls=[""] * len(texts)))
        found = {each["file"]: each for each in summarize(config, judged.counts)}[name]
        assert found["num_items"] == len(items)
        assert found["num_checkable_items"] > 0.4 * len(items)
        is_long = unicode_words(texts).counts_D - 3 >= 13
        assert is_long.sum() > 50
        assert all(
            reason is not None for reason, long in zip(judged.reasons, is_long, strict=True) if long
        )
