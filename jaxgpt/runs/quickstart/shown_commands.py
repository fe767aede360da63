"""Commands that are printed, then run exactly as printed, each in a process of its own."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.errors import JaxgptError
from jaxgpt.stop_signal import StopSignal

CLONE = Path(__file__).resolve().parents[3]


class StepFailedError(JaxgptError):
    """A command of the quickstart failed; the exit code is the command's."""


def run_shown(title: str, arguments: Sequence[str], hint: str = "") -> str:
    """Show a command, run it with this Python, and return its standard output.

    Raises:
        StepFailedError: it failed; `hint` says what else the message above may call for.
    """
    print(f"\n== {title}\n$ {shlex.join(['python', *arguments])}", flush=True)
    begin = time.monotonic()
    with StopSignal() as stop:
        # Ctrl-C reaches the command by itself, SIGTERM is passed on; the command saves and ends.
        process = subprocess.Popen(
            [sys.executable, *_located(arguments)], stdout=subprocess.PIPE, encoding="utf-8"
        )
        output = _wait(process, stop)
    if "--json" not in arguments:
        print(output, end="")
    if process.returncode != 0:
        raise _failure(title, process.returncode, hint)
    print(f"({time.monotonic() - begin:.0f} s)", flush=True)
    return output


def _failure(title: str, returncode: int, hint: str) -> StepFailedError:
    """Return the error of a command that failed or was killed."""
    again = "Run the quickstart again to go on from there"
    if returncode < 0:
        name = signal.Signals(-returncode).name
        why = ""
        if name == "SIGKILL":
            why = ", perhaps by the system because memory ran out"
        return StepFailedError(f"the step {title!r} was killed by {name}{why}. {again}")
    error = StepFailedError(
        f"the step {title!r} ended with exit code {returncode}; its error is above. {again}{hint}"
    )
    error.exit_code = returncode
    return error


def _wait(process: subprocess.Popen[str], stop: StopSignal) -> str:
    """Wait for a command to end and return what it printed."""
    passed_on = False
    while True:
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            if stop.received == signal.SIGTERM and not passed_on:
                process.send_signal(signal.SIGTERM)
                passed_on = True


def _located(arguments: Sequence[str]) -> list[str]:
    """Return the command for any working directory: tools and configs lie next to the package."""
    located = list(arguments)
    places = [0] if located[0].startswith("tools/") else []
    places += [located.index("--config") + 1] if "--config" in located else []
    for place in places:
        located[place] = str(CLONE / located[place])
    return located
