"""A server as a process: it answers, and one that does not start says why."""

from contextlib import closing
from pathlib import Path

import pytest

from jaxgpt.benchmarks.peers.chat_server import ChatServer, serve_run
from jaxgpt.errors import JaxgptError
from tests.interchange.exported import CONFIGS, make_run_of
from tests.tiny import make_dataset

CHATS = ["the cat", "a dog and the cat"]


def test_a_server_that_ends_shows_its_last_words() -> None:
    with pytest.raises(JaxgptError, match="theirs's server did not start: no such model"):
        ChatServer("theirs", "model", lambda port: ["-c", "raise SystemExit('no such model')"])


@pytest.mark.slow
def test_a_server_answers_all_chats_at_once(tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    make_run_of(CONFIGS["qwen3"], tmp_path / "run", make_dataset(tmp_path / "data"))
    with closing(serve_run(str(tmp_path / "run"), 2)) as server:
        assert server.rate(["the cat", "a dog and the cat"], 5) > 0
        with pytest.raises(JaxgptError, match=r"jaxgpt's server, chat/completions: .*400"):
            server.rate(["x"], -1)
