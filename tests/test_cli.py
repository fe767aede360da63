"""`jaxgpt VERB`: every verb and tool is one, has a help, and what needs no verb is answered."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.cli import VERBS, main
from tests.tiny import REPOSITORY


def _run(capsys, *argv: str) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of `jaxgpt ARGV`."""
    try:
        main(argv)
        code: object = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_every_tool_is_a_verb() -> None:
    tools = {path.stem.replace("_", "-") for path in (REPOSITORY / "tools").glob("*.py")}
    assert tools <= VERBS.keys()
    assert {"train", "eval", "generate", "plan", "report", "verify"} <= VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_what_the_verb_prints(verb: str, capsys) -> None:
    code, shown, _ = _run(capsys, "help", verb)
    assert code == 0
    assert shown.startswith(f"usage: jaxgpt {verb} ")
    assert _run(capsys, verb, "--help")[1] == shown


def test_what_needs_no_verb(capsys) -> None:
    code, shown, _ = _run(capsys, "help")
    assert code == 0
    assert all(verb in shown for verb in VERBS)
    assert _run(capsys, "--help")[1] == shown
    code, shown, _ = _run(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"jaxgpt .+, jax \d.*, Python \d.*\n", shown)
    code, shown, error = _run(capsys)
    assert (code, shown) == (2, "")
    assert "usage: jaxgpt VERB" in error
    for argv in (("trian",), ("help", "trian")):
        code, _, error = _run(capsys, *argv)
        assert code == 2
        assert error.startswith("error: no verb 'trian'; did you mean 'train'?")


def test_the_package_is_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "jaxgpt", "--version"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("jaxgpt ")


def test_a_report_of_a_run_that_is_not_finished(tmp_path: Path, capsys) -> None:
    run = tmp_path / "runs" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    config = {"schedule": {"num_steps": 100}, "data": {"datasets": []}}
    (run / "config.json").write_text(json.dumps({"version": 1, "config": config}))
    record = {"step": 7, "tokens": 70, "loss": 4.0, "bits_per_byte": 2.0, "learning_rate": 0.1,
              "grad_norm": 1.0, "tokens_per_second": 10.0, "mfu": None, "seconds": 7.0,
              "data_wait_seconds": 0.0}  # fmt: skip
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    code, shown, _ = _run(capsys, "report", str(run))
    assert (code, shown) == (0, f"{run / 'report.html'}\n")
    assert "At step 7 of 100" in (run / "report.html").read_text()
    code, _, error = _run(capsys, "report", str(run / "checkpoints" / "7"))
    assert code == 2
    assert f"did you mean {run}?" in error
    code, _, error = _run(capsys, "report", str(tmp_path))
    assert code == 79
    assert "not a run folder" in error
