"""Examples about numbers: right, different, and the same for one seed."""

import json
import random
import sys
from pathlib import Path

import pytest

from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.finetuning.numbers import addition, translation, words
from jaxgpt.tools.number_examples import main


def test_sums_are_right_and_each_is_there_once() -> None:
    rows = list(addition(1, (), 1000, random.Random(0)))
    assert len({row["prompt"] for row in rows}) == len(rows) == 100
    for row in list(addition(3, (), 50, random.Random(0))) + rows:
        left, right = map(int, row["prompt"].split("+"))
        assert int(row["completion"]) == left + right
    assert all(len(row["prompt"]) == 5 for row in addition(2, (), 50, random.Random(0)))


def test_words_are_those_of_the_language() -> None:
    pytest.importorskip("num2words")
    rows = {row["prompt"]: row["completion"] for row in words(2, ["en"], 100, random.Random(1))}
    assert len(rows) == 100
    assert rows["58"] == "fifty-eight"
    pairs = {row["source"]: row["target"] for row in translation(2, ["en", "de"], 100,
             random.Random(1))}  # fmt: skip
    assert pairs["fifty-eight"] == "achtundfünfzig"


def test_a_file_depends_on_its_seed(tmp_path: Path) -> None:
    def write(name: str, seed: str) -> str:
        main(["--output", str(tmp_path / name), "--num-examples", "20", "--seed", seed])
        return (tmp_path / name).read_text("utf-8")

    first = write("a.jsonl", "0")
    assert write("b.jsonl", "0") == first != write("c.jsonl", "1")
    assert json.loads(first.splitlines()[0]).keys() == {"prompt", "completion"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--digits", "10"], "--digits 10 must be at most 9"),
        (["--digits", "0"], "--digits 0 must be at least 1"),
        (["--job", "translation", "--languages", "en"], "needs 2 different ones"),
        (["--job", "words", "--languages", "klingon"], "is no language of num2words"),
        (["--job", "words", "--languages", "am", "--digits", "4"], "does not write"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, argv: list[str], message: str) -> None:
    if "--job" in argv:
        pytest.importorskip("num2words")
    with pytest.raises(UsageError, match=message):
        main(["--output", str(tmp_path / "rows.jsonl"), *argv])
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_machine_is_none_of_the_language(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("num2words")

    def fail(number: int, lang: str) -> str:
        raise MemoryError

    monkeypatch.setattr(package, "num2words", fail)
    with pytest.raises(MemoryError):
        list(words(2, ["en"], 5, random.Random(0)))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(ConfigError, match=r"needs the package num2words.*metrics"):
        list(words(2, ["en"], 5, random.Random(0)))
