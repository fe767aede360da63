"""The account of a build in its manifest and report: sources, licences, reasons, samples."""

from pathlib import Path

import pytest

from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.stages import read as reading
from jaxgpt.corpus.stats import counts
from jaxgpt.corpus.stats.counts import OTHER_SOURCES
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from tests.corpus.building import (
    CONFIG,
    make_corpus,
    write_lines,
)
from tests.corpus.test_append import append


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


def many_sources(path, first, last, each=1):
    """Records of sources s0000, s0001, ..."""
    write_lines(
        path,
        *(
            {"text": f"{path} has text {copy} of {n}", "source": f"s{n:04}"}
            for n in range(first, last)
            for copy in range(each)
        ),
    )


def read_by_name(manifest):
    return {source["name"]: source["read"] for source in manifest["sources"]}


def test_a_small_source_of_one_part_may_be_large_in_the_next(monkeypatch):
    many_sources("s/1.jsonl", 0, 1500)
    many_sources("s/2.jsonl", 1400, 1401, each=50)
    whole = build_dataset(["s"], Path("1/out"), CONFIG)
    monkeypatch.setattr(reading, "PART_BYTES", 1)
    manifest = build_dataset(["s"], Path("2/out"), CONFIG)
    assert manifest["sources"] == whole["sources"]
    read = read_by_name(manifest)
    assert (len(read), read["s1400"], read[OTHER_SOURCES]) == (1000, 51, 501)


@pytest.mark.parametrize("num_stored", [2, 8])
def test_a_source_that_is_added_and_taken_down_is_counted_in_one_place(monkeypatch, num_stored):
    """Whether the dataset has sources without a name already, or gets them with what is added."""
    monkeypatch.setattr(counts, "MAX_SOURCES", 4)
    many_sources("a.jsonl", 0, num_stored, each=5)
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    many_sources("b.jsonl", 1, 7, each=2)
    many_sources("c.jsonl", 7, 8, each=40)
    manifest = append("b.jsonl", "c.jsonl")
    assert len(manifest["sources"]) == 4
    assert sum(read_by_name(manifest).values()) == 5 * num_stored + 12 + 40
    named = read_by_name(manifest).keys() - {OTHER_SOURCES}
    assert named == (
        {"s0000", "s0001", "s0002"} if num_stored == 8 else {"s0000", "s0001", "s0007"}
    )
    for name in ("s0001", "s0006", "s0007"):
        manifest = take_down(Path("out"), Takedown(sources=(name,)))
        left = {source["name"]: source["kept"] for source in manifest["sources"]}
        assert left.get(name, 0) == 0
        assert sum(left.values()) == manifest["counts"]["kept"]


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
