"""`order-examples`: equal numbers of both labels, and the same words under both."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.command_line import run_verb
from jaxgpt.corpus import iterate
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.readers.sources import Inputs, SourcesConfig
from jaxgpt.tools import order_examples
from jaxgpt.tools.order_examples import main, shuffle_words

WORDS = st.lists(st.sampled_from(["a", "b", "The", "x"]), min_size=4, max_size=12)


@given(words=WORDS.map(tuple), seed=st.integers(0, 99))
def test_words_change_places_but_for_the_first_and_the_last(
    words: tuple[str, ...], seed: int
) -> None:
    shuffled = shuffle_words(words, random.Random(seed))
    assert (shuffled[0], shuffled[-1]) == (words[0], words[-1])
    assert sorted(shuffled) == sorted(words)


def test_labels_are_balanced_and_reproducible(tmp_path: Path) -> None:
    sentences = [
        f"The {a} dog sees the {b} cat under an old tree." for a in ("big", "small", "red")
        for b in ("quick", "slow", "old")
    ]  # fmt: skip
    text = tmp_path / "text.txt"
    text.write_text(" ".join([*sentences, "No.", "It is 7 o'clock and the (old) dog sleeps.",
                              *sentences]))  # fmt: skip
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        main(["--input", str(text), "--output", str(file), "--num-examples", "8"])
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = [json.loads(line) for line in files[0].open()]
    assert [row["label"] for row in rows] == ["written", "shuffled"] * 4
    for row, sentence in zip(rows, sentences, strict=False):
        assert (row["text"] == sentence) == (row["label"] == "written")
        assert sorted(row["text"].split()) == sorted(sentence.split())


def test_files_behind_the_last_row_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The big dog sees the quick cat under an old tree. " * 2
                    + "The red dog sees the slow cat under an old tree.")  # fmt: skip

    def read_documents(inputs: Inputs, config: SourcesConfig) -> Iterator[Document]:
        yield from iterate.read_documents(inputs, config)
        raise AssertionError("the next file is read")

    monkeypatch.setattr(order_examples, "read_documents", read_documents)
    output = tmp_path / "rows.jsonl"
    main(["--input", str(text), "--output", str(output), "--num-examples", "2"])
    assert len(output.read_text().splitlines()) == 2


def test_text_without_sentences_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Too short. 1 2 3 4 5 6 7 8 9.")
    argv = ["--input", str(text), "--output", str(tmp_path / "none.jsonl")]
    for more, code in ((["--max-words", "5"], 2), ([], 82)):
        with pytest.raises(SystemExit) as stopped:
            run_verb(main, [*argv, *more])
        assert stopped.value.code == code
    assert "fewer than 2 sentences" in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()
