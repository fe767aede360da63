"""tools/benchmark.py: one object of JSON, a table, and errors in one line."""

import json
from pathlib import Path

import pytest

from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.tools.benchmark import main
from tests.languages import LANGUAGES

KEYS = {"measure", "value", "unit", "floor", "floor_ratio", "against", "spread", "versions"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        for name, text in LANGUAGES.items():
            (folder / f"{name}-{number}.txt").write_text(f"{number} {text}", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokenize", "--vocab-size", "500", "--max-bytes", "100000"),
        ("tokenize", "--vocab-size", "500", "--kind", "char", "--max-bytes", "1"),
        ("build", "--vocab-size", "500", "--workers", "1"),
    ],
)
def test_a_measure_prints_one_object(
    arguments: tuple[str, ...], texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*arguments, "--input", texts, "--rounds", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= KEYS
    assert found["measure"] == arguments[0]
    assert found["spread"][0] <= found["value"] <= found["spread"][1]
    assert found["floor_ratio"] == pytest.approx(found["value"] / found["floor"])
    assert found["against"] is None


def test_beside_tiktoken_the_ratio_is_of_the_two(
    texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tiktoken", reason="an extra: pip install -e '.[benchmark]'")
    pytest.importorskip("tokenizers", reason="an extra: pip install -e '.[benchmark]'")
    options = ["--against", "tiktoken", "--vocab-size", "500", "--rounds", "1", "--json"]
    main(["tokenize", "--input", texts, *options])
    found = json.loads(capsys.readouterr().out)
    against = found["against"]
    assert against["name"] == "tiktoken"
    assert against["ratio"] == pytest.approx(found["value"] / against["value"])


def test_a_person_gets_a_table(texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenize", "--input", texts, "--vocab-size", "500", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "MB/s" in printed
    assert "floor" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenise"], "did you mean 'tokenize'"),
        ([], "no measure ''"),
        (["tokenize", "--workers", "0"], "at least 1"),
        (["tokenize", "--against", "one-process"], "more than one worker"),
        (["tokenize", "--against", "tiktoken", "--workers", "2"], "per core"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(JaxgptError, match=message):
        main(arguments)


def test_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UsageError):
        main(["tokenize", "--input", str(tmp_path)])
