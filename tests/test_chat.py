"""`python -m jaxgpt.chat`: a run folder behind it, and a terminal before it."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxgpt import chat, generate
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, environment, make_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("chat")
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0})
    return str(folder / "run")


def test_a_model_without_a_template_continues_all_that_was_said(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = ("--max-new-tokens", "4", "--temperature", "0")
    monkeypatch.setattr("sys.stdin", io.StringIO("the small\n quick dog\n"))
    chat.main(["--checkpoint", run, *draws])
    printed = capsys.readouterr()
    assert "(plain text); /help lists commands" in printed.err
    text = ""
    for said in ("the small", " quick dog"):
        text += said
        generate.main(["--checkpoint", run, *draws, "--prompt", text, "--json"])
        (sample,) = json.loads(capsys.readouterr().out)["samples"]
        text += sample["text"]
        assert sample["text"] in printed.out


@pytest.mark.slow
def test_in_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(run: str, tmp_path: Path) -> None:
    pytest.importorskip("prompt_toolkit", reason="needs: pip install -e '.[chat]'")
    person, terminal = pty.openpty()
    command = [sys.executable, "-m", "jaxgpt.chat", "--checkpoint", run, "--slide-window"]
    options = ("--temperature", "0", "--history-file", str(tmp_path / "history"))
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "1000000", *options],
        cwd=REPOSITORY,
        env={**environment(tmp_path / "cache"), "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = ""

    def wait_for(pattern: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 120
        while not (found := re.search(pattern, seen)):
            assert time.monotonic() < deadline, seen
            if select.select([person], [], [], 1)[0]:
                seen += os.read(person, 4096).decode(errors="replace")
        seen = seen[found.end() :]

    try:
        wait_for("/help lists commands")
        wait_for(">")
        os.write(person, b"the small\x1b\rcat\r")
        # Of likeliest tokens this model never has enough.
        wait_for(r"[\s\S]{3000}")
        process.send_signal(signal.SIGINT)
        wait_for(r"\(stopped; Ctrl-D or /exit leaves\)[\s\S]*>")
        os.write(person, b"/set seed 3\r")
        wait_for(r"seed = 3[\s\S]*>")
        os.write(person, b"\x04")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(person)
    assert "+the small\n+cat\n" in (tmp_path / "history").read_text()
