"""A browser's page over a server of tests, and what a test does with it."""

import shutil
from typing import Any

import pytest

api = pytest.importorskip("playwright.sync_api", reason="needs: pip install -e '.[dev]'")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(NAMES)}"),
]
_STORED = """() => Object.keys(localStorage).map((name) => JSON.parse(localStorage[name]))
    .sort((one, other) => other.updated - one.updated)"""


class Page:
    """A page of its own, in a browser that has kept nothing, or in a tab beside another page.

    Attributes:
        errors: what the page logged as wrong; a test ends with none.
    """

    def __init__(
        self,
        browser: Any,
        url: str,
        width: int = 1280,
        scheme: str = "light",
        beside: "Page | None" = None,
    ) -> None:
        if beside is None:
            viewport = {"width": width, "height": 800}
            self.context = browser.new_context(viewport=viewport, color_scheme=scheme)
            self.context.set_default_timeout(30_000)
        else:
            # Another tab of the same browser.
            self.context = beside.context
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._logged)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _logged(self, message: Any) -> None:
        # A refused request is logged, too; tests that provoke one look at what is shown.
        if message.type == "error" and "the server responded" not in message.text:
            self.errors.append(message.text)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def field(self) -> Any:
        return self.page.locator("#text")

    def set(self, **settings: str) -> None:
        self.button("Settings").click()
        for name, value in settings.items():
            field = self.page.locator(f"#settings [name={name}]")
            if name == "mode":
                field.select_option(value)
            else:
                field.fill(value)
        self.button("Done").click()

    def send(self, text: str) -> None:
        self.field().fill(text)
        self.field().press("Enter")

    def wait_for(self, status: str) -> None:
        self.page.locator("#status").filter(has_text=status).wait_for()

    def answer_of(self, text: str, number: int) -> None:
        """Send a text, and wait until `number` messages are shown and the last has ended."""
        self.send(text)
        self.page.locator("article").nth(number - 1).wait_for()
        self.wait_for("per second")

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.id || document.activeElement.innerText")

    def refuse(self) -> None:
        """Let requests for answers fail, until `accept`; the browser logs each as an error."""
        self.page.route("**/v1/chat/completions", lambda route: route.abort())

    def accept(self) -> None:
        self.page.unroute("**/v1/chat/completions")
        self.errors = [error for error in self.errors if "net::ERR_FAILED" not in error]

    def stored(self) -> list[dict[str, Any]]:
        return self.page.evaluate(_STORED)

    def texts(self) -> list[str]:
        return [message["text"] for message in self.stored()[0]["messages"]]

    def articles(self) -> list[str]:
        return self.page.locator("article .body").all_inner_texts()
