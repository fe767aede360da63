"""Web pages: the text stays, markup and menus go; what is no page is left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.html import Policy, extract_text, is_page

PAGE = """<!DOCTYPE html><html><head><title>On rivers</title><script>track("you")</script></head>
<body><nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Shop now</a></li></ul></nav>
<article><h1>On rivers</h1>
<p>A river is a natural stream of fresh water that flows on land or inside caves towards another
body of water at a lower elevation, such as an ocean, a lake or another river.</p>
<p>Rivers are regulated by the water cycle, the processes by which water moves around the Earth;
salt &amp; silt travel with it, and caf\u00e9s stand on its banks.</p></article>
<footer>Cookie settings</footer></body></html>"""


def test_the_text_of_a_page_stays_and_nothing_else():
    text = extract_text(PAGE)
    for kept in ("natural stream of fresh water", "salt & silt", "caf\u00e9s"):
        assert kept in text
    for gone in ("<", "track", "Shop now", "Cookie"):
        assert gone not in text


def test_what_site_generators_put_before_a_page_is_no_text():
    text = extract_text("---\ntitle: secret\ntags:\n  - x\n---\n" + PAGE)
    assert "secret" not in text
    assert text == extract_text(PAGE)


def test_a_page_too_short_for_an_article_keeps_its_text():
    assert "Hi there" in extract_text("<html><body><p>Hi there, you and me.</p></body></html>")
    assert extract_text("<html><body><script>x()</script></body></html>") == ""


@pytest.mark.parametrize(
    ("path", "text", "policy", "expected"),
    [
        ("a/page.html", PAGE, "files", True),
        ("a/page.HTM.gz", PAGE, "files", True),
        ("a/page.html", PAGE, "keep", False),
        ("a/page.html", "no markup at all, 1 < 2 and 3 > 2", "files", False),
        ("a/crawl.jsonl", PAGE, "files", False),
        ("a/crawl.jsonl", PAGE, "records", True),
        ("a/crawl.jsonl", "  <div class='x'>hello</div>", "records", True),
        ("a/notes.md", "<p>not markdown", "records", True),
        ("a/notes.md", "---\ntitle: Rivers\n---\n<p>of the world", "records", True),
        ("a/notes.md", "---\ntitle: Rivers\n---\n# Of the <b>world</b>", "records", False),
        ("a/notes.md", "# Use of <div>\n<p>in pages</p>", "records", False),
        ("a/code.py", "<pattern>", "records", False),
        ("s3://bucket/page.xhtml.zst", PAGE, "files", True),
    ],
)
def test_what_counts_as_a_page(path: str, text: str, policy: Policy, expected: bool) -> None:
    assert is_page(path, text, policy) is expected


@given(st.text(alphabet="<>/abp \n&;\"'!-", max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_markup_is_survived(text):
    assert isinstance(extract_text("<p>" + text), str)
