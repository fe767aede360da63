"""Adding text to a dataset: nothing of it changes, nothing comes twice, the account closes."""

import itertools
import json
import os
import shutil
import types
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.append import append_to_dataset
from jaxgpt.corpus.append_settings import recorded_config
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.cleaning.privacy import PrivacyConfig
from jaxgpt.corpus.dataset import versions
from jaxgpt.corpus.dataset.stored_documents import stored_documents
from jaxgpt.corpus.documents.content_hash import content_hash
from jaxgpt.corpus.documents.splits import TailSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.corpus.filters.decontamination import DecontaminationConfig
from jaxgpt.corpus.readers.sources import SourcesConfig
from jaxgpt.corpus.stages import read
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import BadInputError, MismatchError, UsageError
from jaxgpt.storage.durable import FolderLock
from tests.corpus.building import (
    CONFIG,
    everything,
    make_corpus,
    removed,
    stored_texts,
    write_lines,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def append(*inputs, output="out", **changes):
    config = replace(recorded_config(Path(output)), executor=CONFIG.executor)
    return append_to_dataset(list(inputs), Path(output), replace(config, **changes))


def check_account(output):
    """Every count of the manifest, from the files beside it."""
    manifest = json.loads(Path(output, "manifest.json").read_text())
    counts, num_bytes = manifest["counts"], manifest["bytes"]
    gone = removed(output)
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    assert Counter(line["reason"] for line in gone) == counts["dropped"]
    lost = sum(num_bytes["dropped"].values()) + sum(num_bytes["edited"].values())
    assert num_bytes["read"] == num_bytes["kept"] + lost
    index = [pq.read_table(f"{output}/{split}/documents.parquet") for split in ("train", "val")]
    texts = stored_texts(output)
    assert [len(table) for table in index] == [len(texts["train"]), len(texts["val"])]
    assert sum(len(table) for table in index) == counts["kept"]
    assert sum(sum(table["num_bytes"].to_pylist()) for table in index) == num_bytes["kept"]
    for table, split in zip(index, texts, strict=True):
        assert table["num_bytes"].to_pylist() == [len(text.encode()) for text in texts[split]]
    of_sources = Counter(name for table in index for name in table["source"].to_pylist())
    assert {one["name"]: one["kept"] for one in manifest["sources"] if one["kept"]} == of_sources
    TokenDataset.open(output).verify()
    return manifest


WORDS = st.sampled_from(["all", "work", "and", "no", "play", "makes", "Jack", "a", "dull", "boy"])
TEXTS = st.lists(WORDS, min_size=6, max_size=9).map(" ".join)
CORPORA = st.lists(st.one_of(TEXTS, st.sampled_from(["", "same", "two words"])), max_size=12)


@given(CORPORA, st.lists(CORPORA, min_size=1, max_size=2))
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_is_lost_or_comes_twice_and_the_account_closes(tmp_path_factory, first, more):
    folder = tmp_path_factory.mktemp("append")
    out = folder / "out"
    given_texts = ["the first of them", "quite another one"]
    write_lines(folder / "0.jsonl", *({"text": text} for text in [*first, *given_texts]))
    build_dataset([str(folder / "0.jsonl")], out, CONFIG)
    for number, texts in enumerate(more, start=1):
        before, removed_before = stored_texts(out), removed(out)
        write_lines(folder / f"{number}.jsonl", *({"text": text} for text in texts))
        append(str(folder / f"{number}.jsonl"), output=out)
        after = stored_texts(out)
        for split, stored in before.items():
            assert after[split][: len(stored)] == stored
        assert removed(out)[: len(removed_before)] == removed_before
        manifest = check_account(out)
    hashes = [content_hash(text) for split in after.values() for text in split]
    assert len(hashes) == len(set(hashes))
    num_texts = len(first) + len(given_texts) + sum(map(len, more))
    assert manifest["counts"]["read"] == num_texts


def near(text):
    """The text with one of its words changed."""
    first, *rest = text.split()
    return " ".join([first, "CHANGED", *rest[1:]])


def test_copies_and_near_copies_of_what_is_stored_are_removed_in_its_favour():
    texts = [" ".join(f"w{number}x{place}" for place in range(60)) for number in range(20)]
    write_lines("a.jsonl", *({"id": f"old{i}", "text": text} for i, text in enumerate(texts)))
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    # The copies have smaller ids and are longer; what is stored stays all the same.
    longer = f"{near(texts[1])} and more of it"
    write_lines(
        "b.jsonl",
        {"id": "a1", "text": texts[0] + "\n"},
        {"id": "a2", "text": longer},
        {"id": "a3", "text": "something that nobody has said before"},
    )
    manifest = append("b.jsonl")
    check_account("out")
    found = {line["id"]: line for line in removed("out")}
    assert (found["a1"]["reason"], found["a1"]["kept_id"]) == ("exact_duplicate", "old0")
    assert (found["a2"]["reason"], found["a2"]["kept_id"]) == ("near_duplicate", "old1")
    assert 0.7 <= found["a2"]["similarity"] < 1
    assert manifest["counts"]["kept"] == 21
    (entry,) = manifest["history"]
    assert (entry["read"], entry["kept"], entry["num_files"]) == (3, 1, 1)


def test_stored_texts_that_were_edited_are_compared_with_edited_ones():
    line = "write to {} about the {} of the house and the garden"
    text = "\n".join(line.format(f"jane{n}.doe@example{n}.com", f"w{n}") for n in range(20))
    write_lines("a.jsonl", {"id": "old", "text": text}, {"text": "another text"})
    config = replace(CONFIG, privacy=PrivacyConfig(email_replacement="someone@example.org"))
    build_dataset(["a.jsonl"], Path("out"), config)
    write_lines("b.jsonl", {"id": "new", "text": near(text)})
    append("b.jsonl")
    (line,) = removed("out")
    assert (line["id"], line["kept_id"]) == ("new", "old")
    assert line["similarity"] > 0.95
    check_account("out")


def test_filters_privacy_and_benchmarks_apply_to_the_new_text():
    question = "which of these thirteen words in a row is the one you need most of all"
    Path("questions.txt").write_text(question)
    make_corpus("in")
    build_dataset(["in"], Path("out"), CONFIG)
    write_lines(
        "b.jsonl",
        {"id": "short", "text": "x"},
        {"id": "quotes", "text": f"as it says here: {question}"},
        {"id": "mail", "text": "please write to jane@example.com " * 30},
    )
    manifest = append(
        "b.jsonl",
        filters=FiltersConfig(profile="code"),
        privacy=PrivacyConfig(email_replacement="someone@example.org"),
        decontamination=DecontaminationConfig(files=("questions.txt",)),
    )
    check_account("out")
    reasons = {line["id"]: line["reason"] for line in removed("out")}
    assert reasons["quotes"] == "benchmark_overlap"
    assert manifest["benchmarks"][0]["num_documents_hit"] == 1
    assert manifest["history"][0]["settings"]["filters.profile"] == "code"
    assert manifest["settings"]["filters"]["profile"] == "none"
    assert not any("jane@example.com" in text for text in stored_texts("out")["train"])


def test_old_shards_are_not_touched_and_the_tokenizer_stays():
    make_corpus("in")
    first = build_dataset(["in"], Path("out"), CONFIG)
    shards = {
        path: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in [*Path("out").rglob("shard-*"), Path("out/tokenizer/tokenizer.model")]
    }
    make_corpus("new", seed=1)
    second = append("new")
    for path, before in shards.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert second["tokenizer"] == first["tokenizer"]
    assert second["fingerprint"] != first["fingerprint"]
    assert second["history"][0]["fingerprint_before"] == first["fingerprint"]
    for split in first["splits"]:
        old = first["splits"][split]["shards"]
        assert second["splits"][split]["shards"][: len(old)] == old


def test_a_document_goes_to_the_split_it_would_have_gone_to():
    make_corpus("in")
    make_corpus("new", seed=1)
    build_dataset(["in"], Path("grown"), CONFIG)
    append("new", output="grown")
    build_dataset(["in", "new"], Path("whole"), CONFIG)
    grown, whole = stored_texts("grown"), stored_texts("whole")
    # Which copy of a text is kept may differ in white space.
    for split in grown:
        assert {t.strip() for t in grown[split]} == {t.strip() for t in whole[split]}


def test_the_same_append_again_changes_nothing_and_neither_does_the_build():
    make_corpus("in")
    make_corpus("new", seed=1)
    build_dataset(["in"], Path("out"), CONFIG)
    manifest = append("new")
    before = everything("out")
    assert append("new") == manifest
    assert build_dataset(["in"], Path("out"), CONFIG) == manifest
    # Nor does appending what the dataset was built of.
    assert append("in") == manifest
    assert everything("out") == before
    write_lines("more.jsonl", {"text": "a text of its own"})
    append("more.jsonl")
    assert [entry["part"] for entry in check_account("out")["history"]] == [1, 2]
    # An earlier append is known, too.
    before = everything("out")
    append("new")
    assert everything("out") == before


def test_an_append_of_nothing_new_leaves_the_fingerprint():
    make_corpus("in")
    first = build_dataset(["in"], Path("out"), CONFIG)
    Path("copy.jsonl").write_bytes(Path("in/a.jsonl").read_bytes())
    manifest = append("copy.jsonl")
    assert manifest["fingerprint"] == first["fingerprint"]
    assert manifest["history"][0]["dropped"] == {"exact_duplicate": 80}
    check_account("out")


def test_the_same_bytes_from_every_executor_and_from_any_division_of_work(monkeypatch):
    make_corpus("in")
    make_corpus("new", seed=1)
    results = []
    for number, executor in enumerate(
        [ExecutorConfig(kind="serial"), ExecutorConfig(kind="processes", workers=2)]
    ):
        build_dataset(["in"], Path(f"{number}/out"), CONFIG)
        with monkeypatch.context() as patch:
            patch.setattr(read, "PARTITION_BYTES", 9000)
            append("new", output=f"{number}/out", executor=executor)
        results.append(everything(f"{number}/out"))
    assert results[0] == results[1]
    build_dataset(["in"], Path("2/out"), CONFIG)
    assert (
        append("new", output="2/out")["fingerprint"]
        == json.loads(results[0]["manifest.json"])["fingerprint"]
    )


def test_wherever_the_change_of_versions_is_interrupted_it_is_old_or_new_and_goes_on(monkeypatch):
    make_corpus("in")
    make_corpus("new", seed=1)
    build_dataset(["in"], Path("built/out"), CONFIG)
    shutil.copytree("built", "clean")
    append("new", output="clean/out")
    old = stored_texts("built/out")
    clean, replace_file = everything("clean/out"), os.replace
    # The folder gets its name, then eight files their places.
    for stop_at in range(9):
        shutil.copytree("built", f"{stop_at}")
        moves = itertools.count()

        def stop(source, target, stop_at=stop_at, moves=moves):
            if next(moves) == stop_at:
                raise KeyboardInterrupt
            replace_file(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(versions, "os", types.SimpleNamespace(replace=stop))
            with pytest.raises(KeyboardInterrupt):
                append("new", output=f"{stop_at}/out")
        assert stored_texts(f"{stop_at}/out") == old
        documents = [
            document
            for split in ("train", "val")
            for document in stored_documents(TokenDataset.open(f"{stop_at}/out"), split)
        ]
        assert len(documents) == sum(map(len, old.values()))
        append("new", output=f"{stop_at}/out")
        assert everything(f"{stop_at}/out") == clean


def test_what_cannot_be_added_to_is_refused_and_stays_as_it_is():
    make_corpus("in")
    write_lines("more.jsonl", {"text": "a text of its own"})
    with pytest.raises(UsageError, match="no dataset at nowhere"):
        append_to_dataset(["more.jsonl"], Path("nowhere"), CONFIG)
    assert not Path("nowhere").exists()
    build_dataset(["in"], Path("out"), CONFIG)
    before = everything("out")
    with pytest.raises(MismatchError, match="seed = 0 there, 7 here"):
        append("more.jsonl", seed=7)
    write_lines("bad.jsonl", b"bad", {"text": "good"})
    with pytest.raises(BadInputError, match=r"1 of 2 records are bad.*bad\.jsonl:1"):
        append("bad.jsonl", sources=SourcesConfig())
    with FolderLock("out"), pytest.raises(UsageError, match="being written"):
        append("more.jsonl")
    after = {name: data for name, data in everything("out").items() if ".append" not in name}
    assert after == before
    build_dataset(["in"], Path("tails"), replace(CONFIG, split=TailSplit()))
    with pytest.raises(MismatchError, match="whole documents"):
        append("more.jsonl", output="tails")
    Path("out/account.json").unlink()
    with pytest.raises(MismatchError, match=r"no account\.json"):
        append("more.jsonl")


def test_a_dataset_of_a_version_with_fewer_settings_is_known_again():
    make_corpus("in")
    write_lines("more.jsonl", {"text": "one more document"})
    build_dataset(["in"], Path("out"), CONFIG)
    path = Path("out", "manifest.json")
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["settings"]["sources"]["max_page_elements"]
    path.write_text(json.dumps(manifest), "utf-8")
    before = path.read_bytes()
    build_dataset(["in"], Path("out"), CONFIG)
    append("in")
    assert path.read_bytes() == before
    append("more.jsonl")
    assert json.loads(path.read_text("utf-8"))["history"][-1]["settings"] == {}
    changed = replace(CONFIG, sources=replace(CONFIG.sources, max_page_elements=7))
    with pytest.raises(MismatchError, match=r"max_page_elements = 50000 there, 7 here"):
        build_dataset(["in"], Path("out"), changed)
