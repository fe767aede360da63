"""The process that PyTorch computes in, from this side: asked in turn, idle in between."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.names.packages import install_advice

_COMPILERS = ("c++", "g++", "clang++")


class TorchProcess:
    """One job of `torch_child.py`, alive until `close`.

    Attributes:
        version: of PyTorch.
    """

    def __init__(self, job: str, arrays: Mapping[str, np.ndarray], **settings: Any) -> None:
        """Start it.

        Args:
            job: its name there.
            arrays: what it needs, by name.
            settings: of the job, values of JSON.

        Raises:
            JaxgptError: it did not start; what it said is in the message.
        """
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxgpt.benchmarks.peers.torch_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "arrays.npz"
                np.savez(path, **arrays)  # type: ignore[arg-type]
                # As many threads as jaxgpt's side has.
                num_threads = len(os.sched_getaffinity(0))
                answer = self.ask(job=job, arrays=str(path), num_threads=num_threads, **settings)
        except BaseException:
            self.close()
            raise
        self.version: str = answer["torch"]

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and wait for the answer.

        Raises:
            JaxgptError: the process could not do it, or is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": "its process is gone; too little memory?"}
        if "error" in answer:
            raise JaxgptError(f"PyTorch's side failed: {answer['error']}")
        return answer

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def require_torch(
    compiles: bool, packages: Sequence[str] = ("torch",), extra: str = "benchmark"
) -> None:
    """Refuse to compare where PyTorch, or what its `compile` needs, is missing.

    Raises:
        ConfigError: saying what to install.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--against needs the package {package}, which is not installed; "
                f"{install_advice(extra)}"
            )
    compiler = os.environ.get("CXX")
    if compiles and not any(map(shutil.which, [compiler] if compiler else _COMPILERS)):
        raise ConfigError(
            "--mode compile needs a C++ compiler, and there is none "
            f"({compiler or ', '.join(_COMPILERS)}): install one, or --mode eager"
        )
