"""`tools/train_tokenizer.py` as users meet it."""

import json
from pathlib import Path

import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tools.train_tokenizer import main
from tests.tiny import make_texts


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / "text" / name).mkdir(parents=True)
        (tmp_path / "text" / name / "a.txt").write_text("".join(make_texts(50)))
    return tmp_path / "text"


def fail(argv: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        run_verb(main, argv)
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err


def test_it_writes_a_tokenizer_and_measures_it(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "tokenizer"
    main(["--input", str(text), "--output", str(output), "--vocab-size", "350", "--json", "True"])
    report = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.load(output)
    assert report["tokenizer"] == tokenizer.describe()
    assert tokenizer.vocab_size == 350
    sample = (text / "one" / "a.txt").read_text()
    measured = len(sample) / len(tokenizer.encode(sample))
    assert report["bytes_per_token"] == {
        str(text / name): pytest.approx(measured, abs=1e-3) for name in ("one", "two")
    }
    longest = [len(piece.encode()) for piece in report["longest_pieces"]]
    assert longest == sorted(longest, reverse=True)
    assert longest[0] == tokenizer.bytes_per_token.max()


def test_it_tells_people_the_same(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main(["--input", str(text), "--output", str(tmp_path / "out"), "--kind", "char"])
    out = capsys.readouterr().out
    assert "tokenizer: char, " in out
    assert f" 1.000  {text / 'one'}" in out


def test_a_tokenizer_is_not_overwritten(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = ["--input", str(text), "--output", str(tmp_path), "--vocab-size", "300"]
    main(argv)
    before = (tmp_path / "tokenizer.model").read_bytes()
    code, error = fail([*argv, "--vocab-size", "310"], capsys)
    assert (code, error.count("\n")) == (2, 1)
    assert "tokenizer.model exists" in error
    assert (tmp_path / "tokenizer.model").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--input", "absent"], 2, "--input absent: no such file"),
        (["--input", ".", "--vocab-sise", "300"], 2, "did you mean --vocab-size?"),
        (["--input", ".", "--vocab-size", "200"], 78, "vocab_size = 200: must be more than 264"),
        (["--input", "empty"], 82, "no file that can be read"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    argv: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert fail([*argv, "--output", "out"], capsys)[0] == code
    code_again, error = fail([*argv, "--output", "out"], capsys)
    assert (code_again, error.count("\n")) == (code, 1)
    assert message in error
    assert not (tmp_path / "out").exists()
