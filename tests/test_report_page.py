"""Report pages: valid, self-contained HTML, in which nothing that is shown can act."""

from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.report_page import Section, Table, to_html

VOID = {"meta", "path", "use", "rect", "br"}


class Page(HTMLParser):
    """Collects text and tags, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


NASTY = st.text() | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "</pre></section>",
        '"><img src=x onerror=y>',
        "&lt;",
        "\x00\x1b[0m",
    ]
)


@settings(max_examples=30, deadline=None)
@given(a=NASTY, b=NASTY, c=NASTY)
def test_whatever_stands_in_a_report_is_text(a: str, b: str, c: str) -> None:
    sample = {"location": a, "detail": b, "prompt": c, "text": a}
    table = Table(("name", a), [[b, c]])
    section = Section(a, b, table, tables={c: table}, samples={b: [sample]}, preformatted=c)
    plain = {"location": "x", "detail": "x", "prompt": "x", "text": "x"}
    table = Table(("name", "x"), [["x", "x"]])
    harmless = Section(
        "x", "x", table, tables={"x": table}, samples={"x": [plain]}, preformatted="x"
    )
    page = Page(to_html(a, {b: c}, [section], subtitle=c))
    expected = Page(to_html("x", {"x": "x"}, [harmless], subtitle="x"))
    # Texts that are blank leave their element out; none adds one.
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in expected.tags}
    assert len(page.tags) <= len(expected.tags)
    assert "\x00" not in to_html(a, {b: c}, [section])
    to_html(a + "\ud800", {b: c}, [section]).encode()


def test_samples_show_prompt_and_text_as_written_and_fold_when_asked() -> None:
    samples = {
        "new": [{"location": "", "detail": "", "prompt": "\ndef f(", "text": "x):\n    pass"}],
        "old": [{"location": "here", "detail": "why", "text": "y"}],
    }
    html = to_html("t", {}, [Section("s", samples=samples, folded=frozenset({"old"}))])
    page = Page(html)
    assert "def f(x):\n    pass" in page.text
    assert "<pre>\n<b>\ndef f(</b>x):" in html
    states = ["open" in attributes for tag, attributes in page.tags if tag == "details"]
    assert states == [True, False]
    assert "here" in page.text


def test_a_page_needs_nothing_from_elsewhere() -> None:
    page = Page(to_html("t", {"a": "1", "b": "2"}, [Section("s", "text")]))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href"} & attributes.keys()
