"""Weights of sources: as many copies as they say, of training text only, whoever works."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.config import from_dict, replace, to_dict
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.documents.content_hash import content_hash
from jaxgpt.corpus.documents.splits import HashSplit, TailSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.stages import read
from jaxgpt.corpus.stages.mixture import MixtureConfig, num_copies
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from jaxgpt.errors import BadInputError, ConfigError
from tests.corpus.building import CONFIG, everything, removed, stored_texts, write_lines
from tests.corpus.test_append import append

WEIGHTS = (("less", 0.5), ("more", 2.5), ("never", 0.0))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def records(first=0, last=240):
    kinds = ("less", "more", "never", "usual")
    return [
        {"id": f"d{n}", "text": f"the text of number {n}", "source": kinds[n % 4]}
        for n in range(first, last)
    ]


def build(output="out", weights=WEIGHTS, **changes):
    if not Path("a.jsonl").exists():
        write_lines("a.jsonl", *records())
    config = replace(CONFIG, mixture=MixtureConfig(weights=weights), **changes)
    return build_dataset(["a.jsonl"], Path(output), config)


def check_account(output):
    """Kept documents once, copies apart: both add up to what is in the shards."""
    manifest = json.loads(Path(output, "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    assert Counter(line["reason"] for line in removed(output)) == counts["dropped"]
    assert manifest["bytes"]["read"] == manifest["bytes"]["kept"] + sum(
        manifest["bytes"]["dropped"].values()
    )
    rows = [
        row
        for split in ("train", "val")
        for row in pq.read_table(f"{output}/{split}/documents.parquet").to_pylist()
    ]
    for source in manifest["sources"]:
        those = [row for row in rows if row["source"] == source["name"]]
        assert source["read"] == source["kept"] + sum(source["dropped"].values())
        assert len({row["id"] for row in those}) == source["kept"]
        assert len(those) == source["kept"] + source["num_repeats"]
        sums = {name: sum(row[name] for row in those) for name in ("num_bytes", "num_tokens")}
        assert sums["num_bytes"] == source["num_bytes"] + source["repeat_bytes"]
        assert sums["num_tokens"] == source["num_tokens"] + source["repeat_tokens"]
    assert len(rows) == sum(split["num_documents"] for split in manifest["splits"].values())
    return manifest


def copies(output="out"):
    return {split: Counter(texts) for split, texts in stored_texts(output).items()}


@given(st.floats(0, 100), st.binary(min_size=16, max_size=16), st.integers(0, 5))
def test_copies_are_the_whole_part_of_the_weight_or_one_more(weight, digest, seed):
    number = num_copies(weight, digest, seed)
    assert int(weight) <= number <= int(weight) + (weight > int(weight))
    # A greater weight never takes a copy away.
    assert num_copies(weight + 0.25, digest, seed) >= number


def test_shares_are_those_of_the_weights():
    hashes = [content_hash(f"text {number}") for number in range(4000)]
    for weight in (0.25, 1.0, 2.6):
        mean = sum(num_copies(weight, digest, 0) for digest in hashes) / len(hashes)
        assert abs(mean - weight) < 0.03


def test_training_text_is_weighed_and_validation_text_is_not():
    build("plain", weights=())
    manifest = build()
    plain, weighed = copies("plain"), copies()
    assert weighed["val"] == plain["val"]
    by_source = {record["text"]: record["source"] for record in records()}
    weights = dict(WEIGHTS)
    for text in plain["train"]:
        number = num_copies(weights.get(by_source[text], 1), content_hash(text), CONFIG.seed)
        assert weighed["train"][text] == number
    check_account("out")
    dropped = {one["name"]: one["dropped"] for one in manifest["sources"]}
    assert dropped["usual"] == dropped["more"] == {}
    assert dropped["less"]["mixture_weight"] > 0
    assert manifest["settings"]["mixture"]["weights"] == [list(pair) for pair in WEIGHTS]


def test_copies_lie_apart():
    build(weights=(("more", 3.0), ("usual", 3.0), ("less", 3.0), ("never", 3.0)))
    texts = stored_texts("out")["train"]
    num_neighbours = sum(a == b for a, b in itertools.pairwise(texts))
    assert num_neighbours < 10
    assert set(Counter(texts).values()) == {3}


def test_the_same_bytes_from_every_executor_and_the_same_dataset_from_any_division(monkeypatch):
    expected = build("1/out")
    build("2/out", executor=ExecutorConfig(kind="processes", workers=2))
    assert everything("1/out") == everything("2/out")
    monkeypatch.setattr(read, "PARTITION_BYTES", 1000)
    manifest = build("3/out")
    assert manifest["fingerprint"] == expected["fingerprint"]
    assert manifest["sources"] == expected["sources"]


def test_what_is_appended_is_weighed_and_all_copies_are_taken_down():
    build()
    write_lines("b.jsonl", *records(240, 280))
    append("b.jsonl")
    check_account("out")
    text = next(text for text, number in copies()["train"].items() if number == 3)
    manifest = take_down(Path("out"), Takedown(ids=(f"d{text.rsplit()[-1]}",)))
    check_account("out")
    assert manifest["counts"]["dropped"]["takedown"] == 1
    assert copies()["train"][text] == 0


def test_what_is_appended_need_not_have_every_source_that_has_a_weight():
    build()
    write_lines("b.jsonl", *(record for record in records(240, 280) if record["source"] == "more"))
    manifest = append("b.jsonl")
    check_account("out")
    assert manifest["history"][0]["read"] == 10
    write_lines("c.jsonl", {"text": "something new", "source": "fresh"})
    weights = (*WEIGHTS, ("fresh", 2.0))
    append("c.jsonl", mixture=MixtureConfig(weights=weights))
    check_account("out")


def test_a_weight_of_no_source_is_refused_when_all_is_read(monkeypatch):
    build()
    write_lines("b.jsonl", *records(240, 280))
    for verb in ("append", "build"):
        monkeypatch.setattr(f"jaxgpt.corpus.{verb}.remove_duplicates", lambda *_: 1 / 0)
    with pytest.raises(ConfigError, match=r"source 'usal'; did you mean 'usual'"):
        append("b.jsonl", mixture=MixtureConfig(weights=(("usal", 2.0),)))
    with pytest.raises(ConfigError, match=r"source 'usal'; did you mean 'usual'"):
        build("other", weights=(("usal", 2.0),))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="weight of a is -1"):
        MixtureConfig(weights=(("a", -1.0),))
    with pytest.raises(ConfigError, match="twice"):
        MixtureConfig(weights=(("a", 2.0), ("a", 3.0)))
    with pytest.raises(ConfigError, match="whole documents"):
        replace(CONFIG, mixture=MixtureConfig(weights=WEIGHTS), split=TailSplit())
    with pytest.raises(ConfigError, match=r"source 'usal'; did you mean 'usual'"):
        build(weights=(("usal", 2.0),))
    with pytest.raises(BadInputError, match="no text to train a tokenizer on"):
        build("none", weights=tuple((kind, 0.0) for kind in ("less", "more", "never", "usual")))


def test_a_config_with_weights_survives_json():
    config = DatasetConfig(mixture=MixtureConfig(weights=WEIGHTS), split=HashSplit())
    assert from_dict(json.loads(json.dumps(to_dict(config))), DatasetConfig) == config
