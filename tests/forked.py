"""Commands without the seconds of importing: forks of one process that has imported the package.

A command runs as Python would run it, `-m` or a file as `__main__`, in a process of its own, with
its own folder, variables and devices. All forks hash strings alike: what must not depend on the
order of a set is left to processes that start from nothing.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.reports import plots

# What most commands import; it opens no device, whose threads a fork would miss.
_IMPORTED = (
    "jaxgpt.train", "jaxgpt.finetune", "jaxgpt.eval", "jaxgpt.generate",
    "jaxgpt.tools.build_dataset", "orbax.checkpoint", "matplotlib.figure",
    "matplotlib.backends.backend_svg",
)  # fmt: skip
_last_cpu_seconds = [0.0]


def run_forked(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    timeout: float,
    figures: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a folder, to its end.

    Args:
        arguments: beginning with `-m MODULE` or a file.
        folder: working directory.
        environment: all variables; JAX's, which are read on import, are those of the tests.
        timeout: seconds after which it is killed; its exit code is then that of SIGKILL.
        figures: with the figures of its reports, which take a second.
    """
    for name in {*environment, *os.environ}:
        if name.startswith("JAX_"):
            assert environment.get(name) == os.environ.get(name), f"{name} is read on import"
    with tempfile.TemporaryDirectory() as outputs:
        paths = [os.path.join(outputs, name) for name in ("stdout", "stderr")]
        request = {
            "arguments": list(arguments), "folder": str(folder), "environment": dict(environment),
            "outputs": paths, "timeout": timeout, "figures": figures,
        }  # fmt: skip
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        reply = json.loads(server.stdout.readline())
        _last_cpu_seconds[0] = reply["cpu_seconds"]
        texts = [Path(path).read_text(errors="replace") for path in paths]
    return subprocess.CompletedProcess(list(arguments), reply["returncode"], *texts)


def cpu_seconds() -> float:
    """Return the CPU seconds of all that was run by `run_forked`."""
    return _last_cpu_seconds[0]


@functools.cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in each fork, return what it is to run."""
    for line in sys.stdin:
        request = json.loads(line)
        with warnings.catch_warnings():
            # JAX warns of its threads, which only an open device has.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            child = os.fork()
        if child == 0:
            return request
        status = _wait(child, time.monotonic() + request["timeout"])
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        reply = {
            "returncode": os.waitstatus_to_exitcode(status),
            "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used),
        }
        print(json.dumps(reply), flush=True)
    return None


def _wait(child: int, deadline: float) -> int:
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _become(request: dict[str, Any]) -> None:
    """Take folder, variables, streams and arguments of a request, and run its module or file."""
    if not request["figures"]:
        plots._has_matplotlib = lambda: False
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, path in enumerate((os.devnull, *request["outputs"])):
        opened = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    first, *rest = request["arguments"]
    if first == "-m":
        name, *rest = rest
        sys.path[0] = request["folder"]
        sys.argv = [name, *rest]
        # As `__main__` it runs again.
        sys.modules.pop(name, None)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.join(request["folder"], first))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    # No collection touches, and so copies, what the forks share.
    gc.collect()
    gc.freeze()
    if (request := _serve()) is not None:
        _become(request)
