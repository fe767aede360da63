"""Web pages: the text stays, markup and menus go; what is no page is left alone."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.corpus.cleaning.repair import RepairConfig
from jaxgpt.corpus.readers.html import Policy, extract_text, find_excess, is_page
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.corpus.stages.read import ReadPlan, read_part

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


def test_a_page_of_too_many_elements_is_dropped_and_says_how_many():
    page = "<html><body><p>" + "<span>word</span> " * 300 + "</p></body></html>"
    assert find_excess(page, 303) is None
    assert "303 elements" in str(find_excess(page, 302))


@pytest.mark.parametrize("attribute", [" a='>'", ' a=">"', " a = b", "/a", "\na", " a=<p>"[:-1]])
def test_a_tag_of_too_many_attributes_is_found_however_they_are_written(attribute: str) -> None:
    page = "<p>text</p><p" + attribute * 1001 + ">text</p>"
    assert "1001 attributes" in str(find_excess(page, 10))
    assert find_excess("<p" + attribute * 1000 + ">text</p>", 10) is None


@pytest.mark.parametrize(
    "page",
    [
        "<script>if (i <n || a = b) {" + "x = y; " * 2000 + "}</script><p>text</p>",
        "<style>a <b" + " c" * 2000 + "</style><p>text</p>",
        "<!-- <p" + " a" * 2000 + " --><p>text</p>",
        "<p>1 < 2 and" + " a = b" * 2000 + "</p>",
        "<p>text" + " = word" * 2000 + "</p>",
        "<img src='data:" + "A B" * 2000 + "'><p>text</p>",
    ],
)
def test_scripts_comments_and_text_have_no_attributes(page: str) -> None:
    assert find_excess(page, 2) is None


@pytest.mark.parametrize(
    "unit",
    ["<a x=' ", '<a x="', "<a ", "< ", '"<a ', "<a a=b", "<!--", "<script", "</", "<a x='\">"],
)
def test_a_mib_of_any_markup_is_looked_through_in_a_second(unit: str) -> None:
    start = time.process_time()
    find_excess(unit * ((1 << 20) // len(unit)), 10**9)
    assert time.process_time() - start < 2


def test_the_main_text_of_21_000_elements_is_found_in_seconds():
    page = "<html><body>" + "<section><div><p>of a river</p></div></section>" * 7000
    start = time.process_time()
    extract_text(page + "</body></html>")
    # All extractors compared, it took 12 seconds, and four times as many for twice the elements.
    assert time.process_time() - start < 6


@pytest.mark.parametrize("tag", ["span", "img", "a href=x", "b"])
def test_a_paragraph_of_too_many_elements_is_found(tag: str) -> None:
    page = f"<html><body><article>{{}}<p>one</p>{f'word <{tag}>' * 100}</article></body></html>"
    dense = f"<{tag}>word " * 4000
    assert find_excess(page.format(f"<P class=a>{dense}</p>"), 10**6) is None
    assert "4000 elements" in str(find_excess(page.format(f"<P class=a>{dense}<i>"), 10**6))
    for end in ("</p>", "<br/>", "<div>"):
        assert find_excess(page.format(f"<p>{dense}{end}{dense}"), 10**6) is None
    assert find_excess(page.format(f"<pre>{dense}<i>"), 10**6) is None


def test_the_main_text_of_a_dense_paragraph_is_found_in_seconds():
    dense = "<span>word</span> " * 3990
    start = time.process_time()
    assert extract_text(f"<html><body><article><p>{dense}</p></article></body></html>")
    # Ten times as many took two minutes.
    assert time.process_time() - start < 6


def test_a_page_beyond_the_limit_is_counted_with_its_own_reason(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.html").write_text("<html><body>" + "<p>word</p>" * 100, "utf-8")
    (tmp_path / "in" / "b.html").write_text(PAGE, "utf-8")
    (tmp_path / "out").mkdir()
    plan = ReadPlan(
        sources=SourcesConfig(max_page_elements=50),
        repair=RepairConfig(),
        num_partitions=1,
        seed=0,
    )
    inputs = find_inputs([str(tmp_path / "in")], tmp_path / "out")
    tally = read_part(tmp_path / "out", lambda _: None, inputs.files, plan)["counts"]
    assert (tally["num_read"], tally["dropped"]) == (2, {"page_too_complex": 1})
    assert "max_page_elements = 50" in tally["samples"]["page_too_complex"][0]["detail"]
