"""Locale, time zone, umask, home, signals and terminal of a process change no result."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxgpt.cli import main
from tests.tiny import REPOSITORY, make_dataset, make_texts, write_config
from tests.xla_flags import with_devices

pytestmark = pytest.mark.slow

# Nobody can make a folder there, not even root.
HOMELESS = "/proc/none"
# As a background job without a terminal in the plainest locale, where Python's own way out is shut.
ENVIRONMENT = {
    "COLUMNS": "20",
    "HOME": HOMELESS,
    "JAX_PLATFORMS": "cpu",
    "LC_ALL": "C",
    "PATH": os.environ["PATH"],
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    "PYTHONUTF8": "0",
    "TZ": "Asia/Kathmandu",
    "XLA_FLAGS": with_devices(1),
}
PROGRAM = """
import sys
from jaxgpt.cli import main
for command in ({commands}):
    sys.argv = ["jaxgpt", *command]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (command, stop.code)
"""


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)


def _build(text: Path, output: Path) -> list[str]:
    return ["build-dataset", "--input", str(text), "--output", str(output),
            "--tokenizer.vocab-size", "320", "--executor.kind", "serial"]  # fmt: skip


def _run_oddly(place: Path, *commands: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(commands=", ".join(map(ascii, commands)))],
        cwd=place, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True,
        preexec_fn=_ignore_ctrl_c,
    )  # fmt: skip


def _check_modes(*paths: Path) -> None:
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_background_job_in_the_plainest_locale_builds_what_a_terminal_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a folder, with spaces"
    (place / "text").mkdir(parents=True)
    for number, text in enumerate(make_texts(60)):
        (place / "text" / f"größe {number}.txt").write_text(f"ıİ schön {text}", "utf-8")
    calm, odd = place / "calm", place / "odd"
    done = _run_oddly(place, _build(place / "text", odd), ["verify", "--data", str(odd)])
    assert done.returncode == 0, done.stderr[-2000:]
    _check_modes(odd / "manifest.json", odd / "report.html")
    monkeypatch.setattr(sys, "argv", ["jaxgpt", *_build(place / "text", calm)])
    main()
    one, other = (
        json.loads((folder / "manifest.json").read_text("utf-8")) for folder in (calm, odd)
    )
    assert one["fingerprint"] == other["fingerprint"]
    assert one["splits"] == other["splits"]


@pytest.mark.timeout(600)
def test_a_background_job_in_the_plainest_locale_trains_without_a_home(tmp_path: Path) -> None:
    place = tmp_path / "a folder, with spaces"
    data, run = make_dataset(place / "data"), place / "run"
    write_config(place / "tiny.py", [(data, 1.0)], num_steps=2, save_every=2)
    done = _run_oddly(
        place,
        ["train", "--config", str(place / "tiny.py"), "--run-dir", str(run)],
        ["verify", "--checkpoint", str(run)],
        ["generate", "--checkpoint", str(run), "--prompt", "the cat", "--max-new-tokens", "2"],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"the cat" in done.stdout
    # The folder for compiled programs cannot be made there; the work goes on without one.
    assert HOMELESS.encode() in done.stderr
    _check_modes(run / "lineage.json", run / "metrics.jsonl")


def test_what_a_verb_prints_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    program = (
        "from jaxgpt.command_line import run_verb\n"
        "run_verb(lambda argv: print('sch\\xf6n \\u2192 \\U0001f600'), [])"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8") == "schön → 😀\n"
