"""Report pages: valid, self-contained HTML, in which nothing that is shown can act."""

import html
import re
from html.parser import HTMLParser

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxgpt.reports.page import Section, Table, to_html, to_markdown

VOID = {"meta", "path", "use", "rect", "br"}


class Page(HTMLParser):
    """Collects text and tags, and checks that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
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
    compared = {b: [{"location": b, "detail": c, "text": text} for text in (a, b, c)]}
    section = Section(
        a, b, table, tables={c: table}, samples={b: [sample]}, compared=compared, preformatted=c
    )
    plain = {"location": "x", "detail": "x", "prompt": "x", "text": "x"}
    table = Table(("name", "x"), [["x", "x"]])
    harmless = Section(
        "x",
        "x",
        table,
        tables={"x": table},
        samples={"x": [plain]},
        compared={"x": [plain, plain | {"text": "y"}, plain | {"text": "y"}]},
        preformatted="x",
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
    markup = to_html("t", {}, [Section("s", samples=samples, folded=frozenset({"old"}))])
    page = Page(markup)
    assert "def f(x):\n    pass" in page.text
    assert "<pre>\n<b>\ndef f(</b>x):" in markup
    states = ["open" in attributes for tag, attributes in page.tags if tag == "details"]
    assert states == [True, False]
    assert "here" in page.text


def test_a_page_needs_nothing_from_elsewhere() -> None:
    page = Page(to_html("t", {"a": "1", "b": "2"}, [Section("s", "text")]))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href"} & attributes.keys()


WORDS = st.lists(st.sampled_from(["<b>", "a", "&amp;", "x\n", '"', "the", "\u2028"]), max_size=12)


@given(WORDS, WORDS)
@example(["<b>"], ["<b>", "\u2028"])
@settings(max_examples=100, deadline=None)
def test_marks_are_what_the_first_text_does_not_have_there(one: list[str], two: list[str]) -> None:
    first, second = " ".join(one), "  " + " ".join(two)
    samples = [{"location": "a:1", "detail": "", "text": text} for text in (first, second)]
    page = to_html("t", {}, [Section("s", compared={"name": samples})])
    blocks = re.findall(r"<pre>\n(.*?)</pre>", page, re.S)
    texts = [text for text in (first, second) if text.strip()]
    assert [html.unescape(re.sub("</?mark>", "", block)) for block in blocks] == texts
    marked = "".join(re.findall("<mark>(.*?)</mark>", page, re.S))
    if len(texts) == 2:
        unmarked = html.unescape(re.sub("<mark>.*?</mark>", " ", blocks[1], flags=re.S))
        left = iter(first.split())
        assert all(word in left for word in unmarked.split()), "in this order in the first"
        assert bool(marked) >= bool(set(second.split()) - set(first.split()))
    if first.strip() == second.strip():
        assert not marked.strip()


def test_a_folded_table_follows_its_figure_and_is_in_markdown() -> None:
    table = Table(("length", "kept"), [["1 B", "7"]])
    section = Section("Length", "Bytes.", table, "<svg></svg>", table_is_folded=True)
    page = to_html("t", {}, [section])
    assert page.index("<svg>") < page.index("<summary>numbers") < page.index("1 B")
    assert "| 1 B | 7 |" in to_markdown("t", {}, [section])
