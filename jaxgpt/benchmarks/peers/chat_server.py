"""A server of OpenAI's API as a process of its own, asked for chats by several clients at once."""

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.errors import JaxgptError

_HOST = "127.0.0.1"
_SECONDS_TO_START = 300
_SECONDS_TO_ANSWER = 600
_SHOWN_OUTPUT = 2000
# The server is on this machine: no proxy leads there.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ChatServer:
    """One server process, alive until `close`."""

    def __init__(self, name: str, model: str, command: Callable[[int], Sequence[str]]) -> None:
        """Start it, and wait until it lists its models.

        Args:
            name: of the side, for errors.
            model: id that its requests name.
            command: from a free port to the command line of a Python module, from "-m" on.

        Raises:
            JaxgptError: it ended, or did not start in time; its last words are in the message.
        """
        self._name, self._model = name, model
        with socket.socket() as free:
            free.bind((_HOST, 0))
            port = free.getsockname()[1]
        self._url = f"http://{_HOST}:{port}/v1"
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, *command(port)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def rate(self, chats: Sequence[str], num_tokens: int) -> float:
        """Return tokens per second of greedy answers to all chats, asked at once.

        Raises:
            JaxgptError: the server refused one, or did not answer.
        """
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(chats)) as pool:
            written = list(pool.map(lambda chat: self._answer(chat, num_tokens), chats))
        return sum(written) / (time.perf_counter() - start)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    def _answer(self, chat: str, num_tokens: int) -> int:
        """Return the number of tokens that the server wrote."""
        asked = {
            "model": self._model,
            "messages": [{"role": "user", "content": chat}],
            "max_tokens": num_tokens,
            "temperature": 0,
        }
        return self._ask("chat/completions", asked)["usage"]["completion_tokens"]

    def _ask(self, path: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._url}/{path}",
            None if asked is None else json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with _direct.open(request, timeout=_SECONDS_TO_ANSWER) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise JaxgptError(f"{self._name}'s server, {path}: {error}") from error

    def _wait(self) -> None:
        end = time.monotonic() + _SECONDS_TO_START
        while self._process.poll() is None and time.monotonic() < end:
            try:
                self._ask("models")
            except JaxgptError:
                time.sleep(0.2)
            else:
                return
        self._output.seek(0)
        said = self._output.read()[-_SHOWN_OUTPUT:].strip()
        raise JaxgptError(f"{self._name}'s server did not start: {said}")


def serve_run(checkpoint: str, num_slots: int) -> ChatServer:
    """Start jaxgpt's server of a run."""
    return ChatServer(
        "jaxgpt",
        "benchmark",
        lambda port: [
            "-m", "jaxgpt.serve", "--checkpoint", checkpoint, "--port", str(port),
            "--name", "benchmark", "--engine.num-slots", str(num_slots),
        ],
    )  # fmt: skip


def serve_folder(folder: Path, dtype: str) -> ChatServer:
    """Start the server of transformers, with continuous batching, of an exported folder."""
    place = str(folder.resolve())
    return ChatServer(
        "transformers",
        place,
        lambda port: [
            "-m", "transformers.cli.transformers", "serve", place, "--continuous-batching",
            "--device", "cpu", "--dtype", dtype, "--port", str(port),
        ],
    )  # fmt: skip
