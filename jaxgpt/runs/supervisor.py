"""Run a command until it is done, and restart it as long as that can help.

The command says by its exit code what to do. 75 means that the same command continues; so does a
death by a signal that nobody here has sent: the machine ran out of memory, or a peer was lost.
Every other code is final. Progress is measured by checkpoints: a run that always dies at the same
step is not restarted forever.
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jaxgpt.errors import UnfinishedError, UsageError
from jaxgpt.stop_signal import signal_at_parent_death

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Limits on restarts of a command."""

    first_wait_seconds: float = 2.0
    """Wait before the first restart, in seconds; doubled at each restart without progress."""
    longest_wait_seconds: float = 300.0
    """Longest wait before a restart, in seconds."""
    max_restarts: int = 5
    """Most restarts in a row without a new checkpoint; after them supervising ends."""
    also: tuple[int, ...] = ()
    """Exit codes that lead to a restart in addition to 75 and death by a signal."""

    def __post_init__(self) -> None:
        for name in ("first_wait_seconds", "longest_wait_seconds", "max_restarts"):
            if getattr(self, name) < 0:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {getattr(self, name)} must not be negative")

    def wait_seconds(self, restarts: int) -> float:
        """Return the wait before a restart, after this many restarts without progress."""
        return min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** min(restarts, 60))


def newest_step(run_dir: Path) -> int | None:
    """Return the newest complete checkpoint by its name; None if there is none."""
    folder = run_dir / "checkpoints"
    if not folder.is_dir():
        return None
    return max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=None)


def supervise(
    command: Sequence[str],
    patience: Patience,
    progress: Callable[[], int | None],
    pause: Callable[[float], object] = time.sleep,
) -> int:
    """Run a command to its end, with restarts if necessary, and return its last exit code.

    SIGTERM, SIGINT and SIGHUP are passed on to the command, and it is not started again then.
    Processes that it leaves in its process group are killed before a restart.

    Args:
        command: program and arguments.
        patience: when to give up.
        progress: returns a value that grows with the command's progress, such as its newest
            checkpoint.
        pause: waits; another function only in tests.

    Raises:
        UsageError: there is no such program.
    """
    restarts = 0
    with _Child() as child:
        while True:
            before = progress()
            code = child.run(command)
            if child.told_to_stop or not _may_go_on(code, patience):
                return _exit_code(code)
            after = progress()
            # Also a step back is a change: a run that went back on purpose is not stuck.
            restarts = restarts + 1 if after == before else 0
            if restarts > patience.max_restarts:
                logger.warning(
                    "ended with %s; no new checkpoint in %d restarts (newest: %s); not restarted "
                    "again",
                    _describe(code), patience.max_restarts, "none" if after is None else after,
                )  # fmt: skip
                return _exit_code(code)
            seconds = patience.wait_seconds(restarts)
            logger.info("ended with %s; restarting in %.0f s", _describe(code), seconds)
            _wait(seconds, child, pause)
            if child.told_to_stop:
                return _exit_code(code)


class _Child:
    """Child process in a group of its own; signals to this process are passed on to it."""

    def __init__(self) -> None:
        self.told_to_stop = False
        self._process: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "_Child":
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *exception: object) -> None:
        self._kill_group()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def run(self, command: Sequence[str]) -> int:
        """Run to the end and return the exit code; a negative one is the signal that killed it."""
        try:
            self._process = subprocess.Popen(
                command, start_new_session=True, preexec_fn=_die_with_parent(os.getpid())
            )
        except OSError as error:
            raise UsageError(f"cannot run {command[0]}: {error.strerror}") from None
        if self.told_to_stop:  # It came while the process was being made.
            self._process.terminate()
        code = self._process.wait()
        self._kill_group()
        self._process = None  # Its number may soon be another's.
        return code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.told_to_stop = True
        if self._process is not None and self._process.returncode is None:
            # To the leader alone: it knows what to do with those that it has started.
            os.kill(self._process.pid, number)

    def _kill_group(self) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


def _wait(seconds: float, child: _Child, pause: Callable[[float], object]) -> None:
    """Wait in short intervals, so that a signal is handled at once."""
    while seconds > 0 and not child.told_to_stop:
        pause(min(_POLL_SECONDS, seconds))
        seconds -= _POLL_SECONDS


def _may_go_on(code: int, patience: Patience) -> bool:
    # A shell in between says 128 + n for a death by signal n; 130 is Ctrl-C, saved.
    by_signal = code < 0 or (code > 128 and code != 130 and code - 128 in _FATAL)
    return code == UnfinishedError.exit_code or by_signal or code in patience.also


_FATAL = {
    int(number)
    for number in (
        signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGTERM, signal.SIGHUP
    )
}  # fmt: skip


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Ask the kernel, in the child, to stop it when its parent is killed."""
    ask_kernel = signal_at_parent_death(signal.SIGTERM)

    def ask() -> None:
        ask_kernel()
        if os.getppid() != parent:  # It died before we could ask.
            os._exit(UnfinishedError.exit_code)

    return ask
