"""Which licence how much of a dataset is under, by source."""

from collections import Counter
from pathlib import Path

import pytest

from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.documents.splits import HashSplit, TailSplit
from jaxgpt.corpus.report import licenses
from jaxgpt.corpus.stages.mixture import MixtureConfig
from jaxgpt.corpus.stats import counts
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from tests.corpus.building import CONFIG, write_lines
from tests.corpus.test_append import append


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def records(first, last):
    return [
        {
            "id": f"d{n}",
            "text": f"a text of number {n}, {'which is long, ' * (n % 4)}and its own",
            "source": f"s{n % 2}",
            "license": ("CC0", "", "MIT")[n % 3],
        }
        for n in range(first, last)
    ]


def expected(those):
    sums = Counter()
    for record in those:
        key = record["source"], record["license"]
        sums[*key, "num_documents"] += 1
        sums[*key, "num_bytes"] += len(record["text"])
    return sums


def table(manifest):
    return Counter(
        {
            (entry["source"], entry["license"], name): entry[name]
            for entry in manifest["licenses"]
            for name in ("num_documents", "num_bytes")
        }
    )


def num_tokens(manifest):
    return sum(entry["num_tokens"] for entry in manifest["licenses"])


@pytest.mark.parametrize("split", [HashSplit(val_fraction=0.2), TailSplit(val_fraction=0.2)])
def test_the_table_adds_up(split):
    write_lines("a.jsonl", *records(0, 30))
    manifest = build_dataset(["a.jsonl"], Path("out"), replace(CONFIG, split=split))
    assert table(manifest) == expected(records(0, 30))
    assert num_tokens(manifest) == sum(s["num_tokens"] for s in manifest["splits"].values())
    report = Path("out/report.md").read_text()
    assert "CC0" in report
    assert "none named" in report


def test_it_follows_what_is_added_and_taken_out():
    write_lines("a.jsonl", *records(0, 30))
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    write_lines("b.jsonl", *records(30, 40))
    assert table(append("b.jsonl")) == expected(records(0, 40))
    manifest = take_down(Path("out"), Takedown(ids=("d3", "d35")))
    left = [record for record in records(0, 40) if record["id"] not in ("d3", "d35")]
    assert table(manifest) == expected(left)
    assert num_tokens(manifest) == sum(s["num_tokens"] for s in manifest["splits"].values())


def sums_by_source(manifest):
    sums = {source["name"]: [0, 0, 0] for source in manifest["sources"]}
    for entry in manifest["licenses"]:
        for place, name in enumerate(("num_documents", "num_bytes", "num_tokens")):
            sums[entry["source"]][place] += entry[name]
    return sums


def kept_by_source(manifest):
    return {
        source["name"]: [source["kept"], source["num_bytes"], source["num_tokens"]]
        for source in manifest["sources"]
    }


@pytest.mark.parametrize("limit", [1000, 2])
def test_copies_do_not_count_and_sources_and_licences_agree(monkeypatch, limit):
    monkeypatch.setattr(counts, "MAX_SOURCES", limit)
    write_lines("a.jsonl", *records(0, 60), {"text": "large by itself", "source": "s2"})
    weights = MixtureConfig(weights=(("s0", 3.0), ("s1", 0.5)))
    manifest = build_dataset(["a.jsonl"], Path("out"), replace(CONFIG, mixture=weights))
    assert sum(source["num_repeats"] for source in manifest["sources"]) > 20
    assert sums_by_source(manifest) == kept_by_source(manifest)
    assert len(manifest["sources"]) == min(limit, 3)
    write_lines("b.jsonl", *records(60, 80))
    append("b.jsonl", mixture=MixtureConfig(weights=(("s1", 4.0),)))
    manifest = take_down(Path("out"), Takedown(ids=("d0", "d5", "d61")))
    assert sums_by_source(manifest) == kept_by_source(manifest)


def test_very_many_sources_are_counted_together_by_licence(monkeypatch):
    monkeypatch.setattr(licenses, "MAX_SOURCES", 3)
    write_lines("a.jsonl", *({**record, "source": record["id"]} for record in records(0, 12)))
    manifest = build_dataset(["a.jsonl"], Path("out"), CONFIG)
    rows = manifest["licenses"]
    assert [row["license"] for row in rows if row["source"] == licenses.OTHER_SOURCES]
    assert len(rows) <= 6
    assert sum(row["num_documents"] for row in rows) == 12
