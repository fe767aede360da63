"""One server for the tests of a process: compiling its programs is most of what they cost."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.tool_calls import AFTER_TOOLS, BEFORE_TOOLS, json_text
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.serving.tool_definitions import TOOLS
from tests.tiny import make_texts


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    # Definitions of tools fit the context if their words are pieces.
    tools = [BEFORE_TOOLS + AFTER_TOOLS, json_text(TOOLS)] * 100
    return train_tokenizer([*make_texts(200), *tools], TokenizerConfig(vocab_size=600))


@pytest.fixture(scope="session")
def served(tokenizer: Tokenizer) -> Iterator[Any]:
    # Its packages are an extra; a file of tests that imports it is skipped without them.
    from tests.serving.served import Served

    served = Served(tokenizer)
    yield served
    served.stop()


class Gate:
    """Holds the engine back between two steps."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened = threading.Event()
        self._opened.set()
        self._left = 0
        step = engine.step

        def gated() -> Any:
            counts = engine.counts()
            if counts.running or counts.waiting:
                if self._left == 0:
                    assert self._opened.wait(60)
                self._left = max(0, self._left - 1)
            return step()

        monkeypatch.setattr(engine, "step", gated)

    def close(self, steps: int) -> None:
        """Let the engine make some more steps with a request, and wait then."""
        self._left = steps
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(served: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(served.engine, monkeypatch)
    yield gate
    gate.open()
    served.wait_until_idle()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    # Its package is an extra, too.
    from tests.serving.page import BROWSER, api

    with api.sync_playwright() as playwright:
        # Without its sandbox, which root and containers do not have: it sees our own page alone.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, served: Any) -> Iterator[Any]:
    from tests.serving.page import Page

    opened: list[Page] = []

    def open_one(url: str = served.url, **options: Any) -> Page:
        opened.append(Page(browser, url, **options))
        return opened[-1]

    yield open_one
    errors = [error for page in opened for error in page.errors]
    hosts = {request.split("/")[2] for page in opened for request in page.requests}
    for page in opened:
        page.context.close()
    assert not errors
    assert all(host.startswith("127.0.0.1") for host in hosts if host), hosts
