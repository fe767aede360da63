"""Two processes on this machine that are the hosts of one run, four simulated devices each."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.tiny import REPOSITORY, environment


def free_port() -> int:
    """A port with a free one after it, below those that systems give to outgoing connections."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000, 2):
        try:
            for number in (port, port + 1):
                with socket.create_server(("127.0.0.1", number)):
                    pass
            return port
        except OSError:
            continue
    raise AssertionError("no free port")


class Hosts:
    """The processes of one run, started together. Killed at the end of a `with` block."""

    def __init__(
        self,
        arguments: Sequence[str],
        cache: Path,
        *,
        program: Sequence[str] = ("-m", "jaxgpt.train"),
        own: Sequence[Sequence[str]] = ((), ()),
        variables: Sequence[Mapping[str, str]] | None = None,
        heartbeat_seconds: float = 10,
    ) -> None:
        port = free_port()
        self.processes = []
        for host, extra in enumerate(own):
            flags = ["--hosts.heartbeat-seconds", str(heartbeat_seconds)]
            if variables is None:
                flags += ["--hosts.coordinator", f"127.0.0.1:{port}"]
                flags += ["--hosts.num-hosts", str(len(own)), "--hosts.host-id", str(host)]
            given = {} if variables is None else variables[host]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *arguments, *flags, *extra],
                    cwd=REPOSITORY,
                    env={**environment(cache, 4), **given},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait(self, timeout: float = 200) -> list[tuple[int, str, str]]:
        """Exit code, stdout and stderr of each."""
        ends = [process.communicate(timeout=timeout) for process in self.processes]
        return [
            (process.returncode, *end) for process, end in zip(self.processes, ends, strict=True)
        ]

    def signal_when(
        self, condition: Callable[[], bool], host: int, number: signal.Signals
    ) -> float:
        """Send one host a signal once a condition holds; the time of that."""
        deadline = time.monotonic() + 200
        while not condition() and time.monotonic() < deadline:
            assert all(process.poll() is None for process in self.processes), self.wait()
            time.sleep(0.05)
        self.processes[host].send_signal(number)
        return time.monotonic()


def num_lines(path: Path) -> int:
    """Lines of a file that may not exist yet."""
    return path.read_text().count("\n") if path.exists() else 0
