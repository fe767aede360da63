"""The account of a build in its manifest and report: sources, licences, reasons, samples."""

from pathlib import Path

import pytest

from jaxgpt.corpus.pipeline import build_dataset
from tests.corpus.building import (
    CONFIG,
    make_corpus,
    write_lines,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def test_the_sources_account_for_every_document_and_token():
    make_corpus("in")
    manifest = build_dataset(["in"], Path("out"), CONFIG)
    sources = manifest["sources"]
    assert [source["name"] for source in sources] == ["in", "in/sub"]
    assert sum(source["read"] for source in sources) == manifest["counts"]["read"]
    assert sum(source["kept"] for source in sources) == manifest["counts"]["kept"]
    for measure in ("num_tokens", "num_bytes"):
        in_splits = sum(split[measure] for split in manifest["splits"].values())
        assert sum(source[measure] for source in sources) == in_splits


def test_the_manifest_names_the_licences_of_each_source():
    write_lines(
        "a.jsonl",
        {"text": "one", "source": "books", "license": "MIT"},
        {"text": "two", "source": "books", "license": "CC0-1.0"},
        {"text": "three", "source": "books"},
        {"text": "four", "license": ""},
    )
    manifest = build_dataset(["a.jsonl"], Path("out"), CONFIG)
    licenses = {source["name"]: source["licenses"] for source in manifest["sources"]}
    assert licenses == {"a.jsonl": [], "books": ["CC0-1.0", "MIT"]}


def test_the_report_tells_counts_and_shows_what_was_dropped():
    make_corpus("in")
    manifest = build_dataset(["in"], Path("out"), CONFIG)
    page = Path("out/report.html").read_text()
    markdown = Path("out/report.md").read_text()
    for report in (page, markdown):
        assert f"{manifest['counts']['read']:,}" in report
        assert "exact_duplicate" in report
    assert "in/sub/b.jsonl:92" in page
    assert "same text as" in page
    # Nothing is loaded from elsewhere.
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http://purl.org", "")


def test_samples_of_dropped_text_cannot_inject_markup():
    write_lines("a.jsonl", {"text": "one"}, {"text": "two"}, b"<script>alert(1)</script>")
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    page = Path("out/report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
