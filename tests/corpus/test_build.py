"""The whole build: the account closes, and the dataset is a function of content and settings."""

import errno
import itertools
import json
import logging
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus import build
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.cleaning.repair import RepairConfig, repair
from jaxgpt.corpus.documents.content_hash import content_hash
from jaxgpt.corpus.documents.splits import HashSplit, TailSplit
from jaxgpt.corpus.readers.sources import SourcesConfig
from jaxgpt.corpus.stages import read
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import BadInputError, JaxgptError, MismatchError, UsageError
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


LINES = st.lists(
    st.one_of(
        st.builds(lambda text: {"text": text}, st.text(max_size=30)),
        st.builds(lambda text: {"text": text}, st.sampled_from(["same", " same\n", "other"])),
        st.builds(lambda id: {"id": id, "text": "named"}, st.integers() | st.text(max_size=5)),
        st.sampled_from([{}, {"text": 1}, {"text": "\0\r\n"}, {"text": "\ud800" * 9}, [], 3]),
        st.sampled_from([b"bad", b"{", b'{"text": "caf\xe9"}', b"", b"\xff\xfd", b"[" * 10_000]),
    ),
    min_size=1,
    max_size=25,
)


@given(LINES)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_record_is_kept_or_dropped_for_a_reason(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("build")
    write_lines(folder / "a.jsonl", *lines, {"text": "first"}, {"text": "second"})
    manifest = build_dataset([str(folder / "a.jsonl")], folder / "out", CONFIG)
    counts = manifest["counts"]
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())
    num_blank = sum(line == b"" for line in lines)
    assert counts["read"] == len(lines) + 2 - num_blank
    gone = removed(folder / "out")
    assert Counter(line["reason"] for line in gone) == counts["dropped"]
    texts = [text for split in stored_texts(folder / "out").values() for text in split]
    assert len(texts) == counts["kept"] == len({content_hash(text) for text in texts})
    # What is stored is exactly the repaired text of what is not listed as removed.
    gone_locations = {line["location"] for line in gone}
    expected = []
    for number, line in enumerate([*lines, {"text": "first"}, {"text": "second"}], start=1):
        if line != b"" and f"{folder / 'a.jsonl'}:{number}" not in gone_locations:
            values = (
                json.loads(line.decode("utf-8", "surrogateescape"))
                if isinstance(line, bytes)
                else line
            )
            expected.append(repair(values["text"], RepairConfig()).text)
    assert sorted(texts) == sorted(expected)


def test_the_same_files_in_any_order_and_under_any_division_of_work_give_the_same_dataset(
    monkeypatch,
):
    make_corpus("in")
    expected = build_dataset(["in"], Path("1/out"), CONFIG)
    arguments = [str(path) for path in Path("in").rglob("*.*")]
    for trial in range(2):
        random.Random(trial).shuffle(arguments)
        monkeypatch.setattr(read, "PARTITION_BYTES", 3000 * (trial + 1))
        monkeypatch.setattr(read, "PART_BYTES", 5000 * (trial + 1))
        manifest = build_dataset(arguments, Path(f"{trial + 2}/out"), CONFIG)
        assert manifest["fingerprint"] == expected["fingerprint"]
        assert manifest["counts"] == expected["counts"]
        by_location = sorted(removed("1/out"), key=lambda line: line["location"])
        assert sorted(removed(f"{trial + 2}/out"), key=lambda line: line["location"]) == by_location


def test_building_twice_gives_the_same_bytes():
    make_corpus("in")
    build_dataset(["in"], Path("1/out"), CONFIG)
    build_dataset(["in"], Path("2/out"), CONFIG)
    assert everything("1/out") == everything("2/out")


def test_a_finished_dataset_holds_what_the_contract_says_and_no_more():
    make_corpus("in")
    manifest = build_dataset(["in"], Path("out"), CONFIG)
    assert sorted(everything("out")) == [
        "account.json",
        "inputs.jsonl.zst",
        "manifest.json",
        "removed.jsonl.zst",
        "report.html",
        "report.md",
        "tokenizer/tokenizer.model",
        "train/documents.parquet",
        "train/shard-00000.bin",
        "train/shard-00000.idx.npy",
        "val/documents.parquet",
        "val/shard-00000.bin",
        "val/shard-00000.idx.npy",
    ]
    assert json.loads(Path("out/manifest.json").read_text("utf-8")) == manifest
    assert {"version", "fingerprint", "tokenizer", "dtype", "splits", "sources"} < set(manifest)
    assert manifest["settings"]["tokenizer"]["kind"] == "char"
    TokenDataset.open("out").verify()


def test_duplicates_name_the_document_that_is_kept_and_the_smallest_id_stays():
    write_lines("in/a.jsonl", {"id": "m", "text": "one"}, {"id": "z", "text": " one\n"})
    write_lines("in/b.jsonl", {"id": "c", "text": "one"}, {"id": "b", "text": "two"})
    build_dataset(["in"], Path("out"), CONFIG)
    assert sorted(removed("out"), key=lambda line: line["id"]) == [
        {
            "id": id,
            "stage": "exact_duplicates",
            "reason": "exact_duplicate",
            "kept_id": "c",
            "kept_location": "in/b.jsonl:1",
            "similarity": 1.0,
            "hash": content_hash("one").hex(),
            "location": location,
            "detail": "same text as in/b.jsonl:1",
        }
        for id, location in (("m", "in/a.jsonl:1"), ("z", "in/a.jsonl:2"))
    ]


def test_bad_records_are_listed_with_file_line_and_reason():
    write_lines("a.jsonl", {"text": "good"}, b"bad", {"id": "x7", "body": 1}, {"text": "fine"})
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    lines = [{key: line[key] for key in ("id", "stage", "reason")} for line in removed("out")]
    assert lines == [
        {"id": "a.jsonl:2", "stage": "read", "reason": "malformed_json"},
        {"id": "x7", "stage": "read", "reason": "no_text"},
    ]


def test_documents_are_shuffled_by_the_seed():
    write_lines("a.jsonl", *({"text": f"document {i:03d}"} for i in range(100)))
    orders = []
    for seed in (1, 2):
        config = replace(CONFIG, seed=seed)
        build_dataset(["a.jsonl"], Path(f"{seed}"), config)
        orders.append(stored_texts(f"{seed}")["train"])
    assert orders[0] != orders[1]
    for order in orders:
        places = [int(text[-3:]) for text in order]
        num_ascending = sum(a < b for a, b in itertools.pairwise(places))
        assert 0.3 < num_ascending / len(places) < 0.7


def test_splits_hold_different_documents():
    texts = set(make_corpus("in"))
    build_dataset(["in"], Path("out"), CONFIG)
    stored = stored_texts("out")
    assert not set(stored["train"]) & set(stored["val"])
    assert texts <= {text.strip() for text in stored["train"] + stored["val"]}
    assert len(stored["val"]) > 10


def test_the_tokenizer_sees_no_validation_text():
    # Every document has a character of its own; only those of training documents get an id.
    write_lines("a.jsonl", *({"text": chr(0x4E00 + i) * 5} for i in range(60)))
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    tokenizer = TokenDataset.open("out").load_tokenizer()
    stored = stored_texts("out")
    assert all(len(tokenizer.encode(text)) == 5 for text in stored["train"])
    assert all(len(tokenizer.encode(text)) == 15 for text in stored["val"])


def test_a_given_tokenizer_is_used_as_it_is():
    write_lines("a.jsonl", *({"text": f"document {i}"} for i in range(30)))
    first = build_dataset(["a.jsonl"], Path("1"), CONFIG)
    write_lines("b.jsonl", {"text": "x y"}, {"text": "é"})
    config = replace(CONFIG, tokenizer=DatasetTokenizer(path="1"))
    second = build_dataset(["b.jsonl"], Path("2"), config)
    assert second["tokenizer"] == first["tokenizer"]
    assert sorted(text for split in stored_texts("2").values() for text in split) == ["x y", "é"]


def test_a_given_tokenizer_that_is_none_is_refused_before_anything_is_read():
    write_lines("a.jsonl", {"text": "a"})
    config = replace(CONFIG, tokenizer=DatasetTokenizer(path="nowhere"))
    with pytest.raises(UsageError, match="nowhere"):
        build_dataset(["a.jsonl"], Path("out"), config)
    assert not Path("out").exists()


def test_one_document_is_divided_between_the_splits_and_the_manifest_says_so():
    text = "It was the best of times. " * 40
    Path("a.txt").write_text(text, "utf-8")
    manifest = build_dataset(["a.txt"], Path("out"), CONFIG)
    stored = stored_texts("out")
    assert stored["train"][0] + stored["val"][0] == text
    assert "one document" in manifest["split_note"]
    assert manifest["counts"] == {"read": 1, "kept": 1, "dropped": {}}


def test_tail_split_of_a_corpus_of_one_text():
    Path("a.txt").write_text("0123456789" * 100, "utf-8")
    build_dataset(["a.txt"], Path("out"), replace(CONFIG, split=TailSplit(val_fraction=0.1)))
    assert stored_texts("out") == {"train": ["0123456789" * 90], "val": ["0123456789" * 10]}


def test_text_too_short_to_hold_any_out():
    Path("a.txt").write_text("x", "utf-8")
    with pytest.raises(BadInputError, match="validation"):
        build_dataset(["a.txt"], Path("out"), CONFIG)


def test_too_many_bad_records_stop_the_build_with_examples():
    write_lines("a.jsonl", *({"text": f"good {i}"} for i in range(98)), b"bad", {"body": "x"})
    with pytest.raises(BadInputError, match=r"2 of 100 records.*a\.jsonl:99") as caught:
        build_dataset(["a.jsonl"], Path("out"), replace(CONFIG, sources=SourcesConfig()))
    assert caught.value.exit_code == 82
    assert not Path("out/manifest.json").exists()
    # The limit can be raised without reading everything again.
    config = replace(CONFIG, sources=SourcesConfig(max_bad_share=0.02))
    manifest = build_dataset(["a.jsonl"], Path("out"), config)
    assert manifest["counts"]["dropped"] == {"malformed_json": 1, "no_text": 1}


def test_exactly_the_allowed_share_of_bad_records_passes():
    write_lines("a.jsonl", *({"text": f"good {i}"} for i in range(99)), b"bad")
    manifest = build_dataset(["a.jsonl"], Path("out"), replace(CONFIG, sources=SourcesConfig()))
    assert manifest["counts"]["kept"] == 99


def test_a_latin1_text_is_repaired_and_one_of_binary_rubbish_is_dropped():
    accented = ("A caf\xe9 in the rain. " + "Nothing else is special here. " * 5).encode("latin-1")
    Path("a.txt").write_bytes(accented)
    Path("b.txt").write_bytes(bytes(range(128, 256)) * 10)
    Path("c.txt").write_text("a third text", "utf-8")
    manifest = build_dataset(["a.txt", "b.txt", "c.txt"], Path("out"), CONFIG)
    assert manifest["counts"]["dropped"] == {"invalid_utf8": 1}
    assert manifest["repaired"]["invalid_bytes"] == {"documents": 2, "places": 1281}
    stored = [text for split in stored_texts("out").values() for text in split]
    assert any(text.startswith("A caf\ufffd in the rain.") for text in stored)


@pytest.mark.parametrize("lines", [[], [{"text": " \n"}], [{"text": "\u0000"}, b""]])
def test_no_document_left(lines):
    write_lines("a.jsonl", *lines)
    with pytest.raises(BadInputError, match="no document is left"):
        build_dataset(["a.jsonl"], Path("out"), CONFIG)


def test_a_folder_without_anything_to_read_names_what_was_passed_over():
    Path("in").mkdir()
    Path("in/photo.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(BadInputError, match=r"1 of no known kind: 1 \.jpg \(in/photo\.jpg\)"):
        build_dataset(["in"], Path("out"), CONFIG)


def test_damaged_files_are_counted_named_and_refused_on_demand(caplog):
    import gzip

    make_corpus("in")
    data = gzip.compress(b"".join(b'{"text": "line %d"}\n' % (i * i) for i in range(5000)))
    Path("in/cut.jsonl.gz").write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        manifest = build_dataset(["in"], Path("out"), CONFIG)
    assert manifest["inputs"]["problems"] == {"truncated": 1}
    assert manifest["counts"]["dropped"]["truncated_record"] == 1
    assert "cut.jsonl.gz is truncated" in caplog.text
    refuse = replace(CONFIG, sources=SourcesConfig(max_bad_share=1.0, truncated_files="refuse"))
    with pytest.raises(BadInputError, match=r"cut\.jsonl\.gz"):
        build_dataset(["in"], Path("out2"), refuse)


def test_a_finished_dataset_is_left_alone():
    make_corpus("in")
    manifest = build_dataset(["in"], Path("out"), CONFIG)
    before = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path("out").rglob("*")
    }
    assert build_dataset(["in"], Path("out"), CONFIG) == manifest
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in Path("out").rglob("*")}
    lock = Path("out/.lock")
    assert {p: v for p, v in before.items() if p != lock} == {
        p: v for p, v in after.items() if p != lock
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 5}, r"seed = 0 there, 5 here"),
        ({"split": HashSplit(val_fraction=0.3)}, r"split\.val_fraction = 0\.2 there, 0\.3 here"),
        ({"split": TailSplit(val_fraction=0.2)}, r"split\.type = .*HashSplit.*TailSplit"),
        ({"tokenizer": DatasetTokenizer(kind="bpe", vocab_size=400)}, r"tokenizer\.kind"),
    ],
)
def test_other_settings_into_a_finished_dataset_are_refused(changes, said):
    make_corpus("in")
    build_dataset(["in"], Path("out"), CONFIG)
    before = everything("out")
    with pytest.raises(MismatchError, match=said):
        build_dataset(["in"], Path("out"), replace(CONFIG, **changes))
    assert everything("out") == before


def test_other_input_into_a_finished_dataset_is_refused():
    make_corpus("in")
    build_dataset(["in"], Path("out"), CONFIG)
    Path("in/new.txt").write_text("a new document", "utf-8")
    with pytest.raises(MismatchError, match=r"in/new\.txt is input here, not there"):
        build_dataset(["in"], Path("out"), CONFIG)
    Path("in/new.txt").unlink()
    text = Path("in/sub/0.txt").read_text("utf-8")
    Path("in/sub/0.txt").write_text("X" + text[1:], "utf-8")
    with pytest.raises(MismatchError, match=r"in/sub/0\.txt has changed"):
        build_dataset(["in"], Path("out"), CONFIG)
    # Only the time differs: that is the same input.
    Path("in/sub/0.txt").write_text(text, "utf-8")
    os.utime("in/sub/0.txt", ns=(1, 1))
    build_dataset(["in"], Path("out"), CONFIG)


def test_a_folder_that_is_something_else_is_refused():
    make_corpus("in")
    Path("home").mkdir()
    Path("home/letter.odt").write_text("precious", "utf-8")
    with pytest.raises(UsageError, match=r"letter\.odt"):
        build_dataset(["in"], Path("home"), CONFIG)
    assert Path("home/letter.odt").read_text("utf-8") == "precious"


def test_a_second_builder_is_refused():
    make_corpus("in")
    with FolderLock("out"), pytest.raises(UsageError, match="being written"):
        build_dataset(["in"], Path("out"), CONFIG)


def test_changed_settings_or_input_between_interruption_and_continuation(monkeypatch):
    make_corpus("in")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "finalize_dataset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(["in"], Path("1/out"), CONFIG)
    assert not Path("1/out/manifest.json").exists()
    Path("in/new.txt").write_text("a document that came in between", "utf-8")
    config = replace(CONFIG, seed=7, split=HashSplit(val_fraction=0.4))
    build_dataset(["in"], Path("1/out"), config)
    build_dataset(["in"], Path("2/out"), config)
    assert everything("1/out") == everything("2/out")


def test_a_full_disk_is_said_and_the_build_continues_when_there_is_room(monkeypatch):
    make_corpus("in")

    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(build, "write_shards", no_room)
        with pytest.raises(JaxgptError, match=r"No space left.*run the same command again"):
            build_dataset(["in"], Path("1/out"), CONFIG)
    build_dataset(["in"], Path("1/out"), CONFIG)
    build_dataset(["in"], Path("2/out"), CONFIG)
    assert everything("1/out") == everything("2/out")


def test_the_vocabulary_is_lowered_to_what_the_text_supports_and_recorded():
    write_lines("a.jsonl", {"text": "abc"}, {"text": "cba"})
    config = replace(CONFIG, tokenizer=DatasetTokenizer(kind="bpe", vocab_size=5000))
    manifest = build_dataset(["a.jsonl"], Path("out"), config)
    assert manifest["tokenizer"]["vocab_size"] < 300
    assert manifest["settings"]["tokenizer"]["vocab_size"] == 5000


def test_all_of_a_shared_real_text(shared_data, tmp_path):
    manifest = build_dataset(
        [str(shared_data / "small")],
        tmp_path / "out",
        replace(CONFIG, sources=SourcesConfig(max_bad_share=1.0)),
    )
    assert manifest["counts"]["kept"] > 250
    assert TokenDataset.open(tmp_path / "out").verify() > 100_000
