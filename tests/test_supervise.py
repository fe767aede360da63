"""Who is started again, how often, and what is left when it ends. The commands are Python's own."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxgpt.errors import UsageError
from jaxgpt.runs.supervisor import Patience, newest_step, supervise
from jaxgpt.supervise import main

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
QUICK = Patience(first_wait_seconds=0.01, longest_wait_seconds=0.05, max_restarts=3)


class _Script:
    """A command whose n-th run does what the n-th of `acts` says; then the last one's forever."""

    def __init__(self, folder: Path, *acts: str) -> None:
        self.count = folder / "count"
        self.count.write_text("")
        program = (
            "import os, signal, sys, time, subprocess\n"
            f"path = {str(self.count)!r}\n"
            "open(path, 'a').write('x')\n"
            f"acts = {acts!r}\n"
            "number = len(open(path).read())\n"
            "exec(acts[min(number, len(acts)) - 1])\n"
        )
        self.command = [sys.executable, "-c", program]

    @property
    def runs(self) -> int:
        return len(self.count.read_text())


def _exit(code: int) -> str:
    return f"sys.exit({code})"


def _die(number: signal.Signals) -> str:
    return f"os.kill(os.getpid(), {int(number)})"


def _growing() -> int:
    """Progress whenever one looks."""
    return time.monotonic_ns()


@pytest.mark.parametrize("act", [_exit(75), _die(signal.SIGKILL), _die(signal.SIGABRT), _exit(137)])
def test_what_may_go_on_is_started_again_until_it_is_done(tmp_path, act: str) -> None:
    script = _Script(tmp_path, act, act, _exit(0))
    assert supervise(script.command, QUICK, _growing) == 0
    assert script.runs == 3


@pytest.mark.parametrize("code", [0, 1, 2, 78, 79, 80, 81, 82, 130])
def test_what_cannot_go_on_is_not(tmp_path, code: int) -> None:
    script = _Script(tmp_path, _exit(code))
    assert supervise(script.command, QUICK, _growing) == code
    assert script.runs == 1


def test_more_codes_on_request(tmp_path) -> None:
    script = _Script(tmp_path, _exit(1), _exit(0))
    patience = Patience(first_wait_seconds=0, also=(1,))
    assert supervise(script.command, patience, _growing) == 0
    assert script.runs == 2


@pytest.mark.parametrize(("act", "code"), [(_exit(75), 75), (_die(signal.SIGKILL), 137)])
def test_without_progress_it_ends_with_the_last_exit_code(tmp_path, act: str, code: int) -> None:
    script = _Script(tmp_path, act)
    assert supervise(script.command, QUICK, lambda: 40) == code
    assert script.runs == 1 + QUICK.max_restarts


def test_waits_double_up_to_the_longest_and_progress_resets_them(tmp_path) -> None:
    script = _Script(tmp_path, *[_exit(75)] * 7, _exit(0))
    waits: list[float] = []
    steps = iter([0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2])  # before, after, before, ...
    patience = Patience(first_wait_seconds=0.02, longest_wait_seconds=0.07, max_restarts=5)
    assert supervise(script.command, patience, lambda: next(steps), waits.append) == 0
    assert waits == pytest.approx([0.02, 0.04, 0.07, 0.07, 0.02, 0.04, 0.07])


def test_what_a_command_leaves_behind_is_killed(tmp_path) -> None:
    helper = tmp_path / "helper"
    leave = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(helper)!r}, 'w').write(str(child.pid)); sys.exit(75)"
    )
    script = _Script(tmp_path, leave, _exit(0))
    assert supervise(script.command, QUICK, _growing) == 0
    assert _is_gone(int(helper.read_text()))


def test_a_group_is_killed_once_and_not_after_the_wait(tmp_path, monkeypatch) -> None:
    """By then its number may be that of another group."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: killed.append(group))
    script = _Script(tmp_path, _exit(75), _exit(75), _exit(0))
    assert supervise(script.command, QUICK, _growing) == 0
    assert len(killed) == len(set(killed)) == 3


def _is_gone(number: int, seconds: float = 10) -> bool:
    """Whether a process ends within some seconds; a zombie counts as gone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


_SAVES = (
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    "open(path + '.ready', 'w').close()\n"
    "time.sleep(60)"
)


def _started(tmp_path: Path, script: _Script) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jaxgpt.supervise",
            "--run-dir",
            str(tmp_path),
            "--",
            *script.command,
        ],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    ready = Path(f"{script.count}.ready")
    for _ in range(600):
        if ready.exists():
            return process
        time.sleep(0.05)
    raise AssertionError("the command was not started")


def test_a_signal_is_passed_on_and_ends_it(tmp_path) -> None:
    script = _Script(tmp_path, _SAVES)
    process = _started(tmp_path, script)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert script.runs == 1


def test_a_command_does_not_outlive_a_killed_supervisor(tmp_path) -> None:
    note = "open(path + '.pid', 'w').write(str(os.getpid()))\n"
    script = _Script(tmp_path, note + _SAVES)
    process = _started(tmp_path, script)
    process.kill()
    process.communicate(timeout=30)
    assert _is_gone(int(Path(f"{script.count}.pid").read_text()))


def test_a_signal_during_the_wait_ends_it(tmp_path) -> None:
    script = _Script(tmp_path, _exit(75))
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    assert supervise(script.command, Patience(first_wait_seconds=60), lambda: 1) == 75
    assert time.monotonic() - began < 20
    assert script.runs == 1


def test_the_newest_checkpoint_is_progress(tmp_path) -> None:
    assert newest_step(tmp_path) is None
    for name in ("4", "12", ".saving-20", "damaged-16", "9"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 12


def test_wrong_usage_is_one_line(tmp_path) -> None:
    with pytest.raises(UsageError, match="no command"):
        main([])
    with pytest.raises(UsageError, match="--run-dir is missing"):
        main(["--", "true"])
    with pytest.raises(UsageError, match="cannot run nothing-of-this-name"):
        main(["--run-dir", str(tmp_path), "--", "nothing-of-this-name"])
    with pytest.raises(UsageError, match="--max-restarts -1"):
        Patience(max_restarts=-1)
