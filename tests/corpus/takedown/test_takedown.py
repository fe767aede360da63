"""Taking documents out again: no text of them is left, everything else is as it was."""

import itertools
import json
import os
import shutil
import types
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import ShardsConfig
from jaxgpt.corpus.dataset import versions
from jaxgpt.corpus.dataset.document_index import index_rows
from jaxgpt.corpus.documents.document import RemovedWriter
from jaxgpt.corpus.documents.splits import TailSplit
from jaxgpt.corpus.filters.decontamination import DecontaminationConfig
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from jaxgpt.errors import BadInputError, JaxgptError, MismatchError, UsageError
from jaxgpt.storage.durable import FolderLock
from tests.corpus.building import CONFIG, everything, removed, stored_texts, write_lines
from tests.corpus.test_append import append, check_account


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def secret(number):
    """A text that says what no other one says."""
    return " ".join(f"secret{number}x{place}" for place in range(100))


def build(output="out", num_texts=12, max_tokens=3500, **changes):
    """Two sources; shards of three documents; a copy, and near copies of every third text."""
    texts = [secret(number) for number in range(num_texts)]
    lines = [
        {"id": f"d{number}", "text": text, "source": f"s{number % 3}"}
        for number, text in enumerate(texts)
    ]
    lines += [
        {"id": f"near{number}", "text": texts[number].replace("x7 ", "y "), "source": "s2"}
        for number in range(0, num_texts, 3)
    ]
    write_lines("in/a.jsonl", *lines, {"id": "z", "text": texts[1], "source": "s2"})
    config = replace(CONFIG, shards=ShardsConfig(max_tokens=max_tokens), **changes)
    build_dataset(["in"], Path(output), config)
    return texts


def all_bytes(output):
    """Everything in a dataset folder as readable bytes: shards decoded, files unpacked."""
    found = [text.encode() for texts in stored_texts(output).values() for text in texts]
    for name, data in everything(output).items():
        found.append(zstandard.decompress(data, 1 << 24) if name.endswith(".zst") else data)
        found.append(name.encode())
    return b"\n".join(found)


def is_anywhere(output, number):
    """Whether any three words in a row of a text are in the folder."""
    data, words = all_bytes(output), secret(number).split()
    return any(" ".join(words[n : n + 3]).encode() in data for n in range(len(words) - 2))


@given(st.sets(st.integers(0, 11), min_size=1, max_size=5), st.sampled_from([700, 3500, 10**6]))
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_is_left_and_the_rest_is_as_it_was(tmp_path_factory, numbers, max_tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("takedown"))
        build(max_tokens=max_tokens)
        before, shards = stored_texts("out"), everything("out")
        old = json.loads(Path("out/manifest.json").read_text())
        gone = {split: [t for t in texts if any(f"secret{n}x" in t for n in numbers)]
                for split, texts in before.items()}  # fmt: skip
        if any(gone[split] == before[split] for split in before):
            return
        # The near copy of a text may be what is stored of it.
        ids = [f"{kind}{n}" for n in numbers for kind in ("d", "near") if kind == "d" or n % 3 == 0]
        manifest = take_down(Path("out"), Takedown(ids=tuple(ids)))
        after = stored_texts("out")
        for split in before:
            assert after[split] == [text for text in before[split] if text not in gone[split]]
        assert not any(is_anywhere("out", number) for number in numbers)
        check_account("out")
        assert manifest["counts"]["dropped"]["takedown"] == sum(map(len, gone.values()))
        # Shards that held none of it are the very ones.
        kept_shards = {shard["path"] for split in manifest["splits"].values()
                       for shard in split["shards"]}  # fmt: skip
        for split in old["splits"].values():
            for shard in split["shards"]:
                if shard["path"] in kept_shards:
                    assert everything("out")[shard["path"]] == shards[shard["path"]]


def test_a_source_goes_and_everything_says_so():
    build()
    kept_before = check_account("out")["counts"]["kept"]
    manifest = take_down(Path("out"), Takedown(sources=("s0",), note="request 7"))
    check_account("out")
    source = next(one for one in manifest["sources"] if one["name"] == "s0")
    assert source["kept"] == 0
    assert source["dropped"]["takedown"] > 0
    (entry,) = manifest["history"]
    assert entry["operation"] == "takedown"
    assert entry["sources"] == ["s0"]
    assert entry["note"] == "request 7"
    assert entry["num_documents"] == kept_before - manifest["counts"]["kept"]
    # Texts of s0 have near copies, which were removed in their favour.
    lines = removed("out")
    taken = {line["id"] for line in lines if line["reason"] == "takedown"}
    copies = [line for line in lines if line.get("kept_id") in taken]
    assert entry["num_copies_that_stay_out"] == len(copies) == 4
    assert all(not is_anywhere("out", int(id[1:])) for id in taken)
    assert "takedown" in Path("out/report.md").read_text()


def test_only_shards_that_held_it_are_written_anew():
    build(num_texts=30)
    before = {path: path.stat().st_ino for path in Path("out/train").glob("shard-*.bin")}
    assert len(before) > 5
    manifest = take_down(Path("out"), Takedown(locations=("in/a.jsonl:2",)))
    after = {path: path.stat().st_ino for path in Path("out").rglob("shard-*.bin")}
    gone = {path for path in before if path not in after}
    assert len(gone) <= 1
    assert all(after[path] == inode for path, inode in before.items() if path in after)
    named = {shard["path"] for split in manifest["splits"].values() for shard in split["shards"]}
    assert {str(path.relative_to("out")) for path in after} == named
    check_account("out")


def test_again_changes_nothing_and_what_was_never_there_is_said():
    build()
    manifest = take_down(Path("out"), Takedown(ids=("d1", "d2")))
    before = everything("out")
    assert take_down(Path("out"), Takedown(ids=("d2",))) == manifest
    assert everything("out") == before
    with pytest.raises(UsageError, match=r"no document with id 'd99'; did you mean"):
        take_down(Path("out"), Takedown(ids=("d3", "d99")))
    assert everything("out") == before
    manifest = take_down(Path("out"), Takedown(ids=("d3", "d99"), ignore_unknown=True))
    assert [entry["num_documents"] for entry in manifest["history"]] == [2, 1]
    check_account("out")


def test_an_append_does_not_bring_it_back():
    build()
    take_down(Path("out"), Takedown(ids=("d1",)))
    write_lines("b.jsonl", {"id": "again", "text": f"{secret(1)}\n"}, {"text": "a new text"})
    manifest = append("b.jsonl")
    check_account("out")
    assert not is_anywhere("out", 1)
    assert manifest["history"][1]["dropped"] == {"takedown": 1}
    # What was appended can be taken down, too.
    take_down(Path("out"), Takedown(locations=("b.jsonl:2",)))
    check_account("out")
    assert b"a new text" not in all_bytes("out")


def test_the_text_of_an_unfinished_append_goes_too(monkeypatch):
    build()
    write_lines("b.jsonl", {"id": "again", "text": "a new text"})
    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.corpus.append.write_shards", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            append("b.jsonl")
    assert Path("out/.append").exists()
    # Nothing is lost by a slip of the pen.
    with pytest.raises(UsageError, match="did you mean"):
        take_down(Path("out"), Takedown(ids=("d99",)))
    assert Path("out/.append").exists()
    take_down(Path("out"), Takedown(ids=("d1",)))
    assert not Path("out/.append").exists()


def test_what_is_left_of_an_append_and_cannot_be_deleted_is_said():
    build()
    Path("elsewhere").mkdir()
    Path("out/.append").symlink_to(Path("elsewhere").resolve())
    before = stored_texts("out")
    with pytest.raises(JaxgptError, match=r"cannot delete .*\.append.* nothing was taken down"):
        take_down(Path("out"), Takedown(ids=("d1",)))
    assert stored_texts("out") == before
    Path("out/.append").unlink()
    take_down(Path("out"), Takedown(ids=("d1",)))


def test_wherever_it_is_interrupted_it_goes_on_to_the_same_bytes(monkeypatch):
    build("built/out")
    shutil.copytree("built", "clean")
    take_down(Path("clean/out"), Takedown(ids=("d1", "d5")))
    clean, replace_file = everything("clean/out"), os.replace
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
                take_down(Path(f"{stop_at}/out"), Takedown(ids=("d1", "d5")))
        assert stored_texts(f"{stop_at}/out") == stored_texts("built/out")
        take_down(Path(f"{stop_at}/out"), Takedown(ids=("d1", "d5")))
        assert everything(f"{stop_at}/out") == clean


def test_a_copy_that_was_removed_goes_with_what_was_kept_for_it():
    build()
    before = everything("out")
    # The text of these stands in the shards, under another name.
    for name, kept, place in (("z", "d1", 2), ("near0", "d0", 1)):
        with pytest.raises(UsageError, match=rf"'{name}' was .* '{kept}'.* in/a.jsonl:{place},"):
            take_down(Path("out"), Takedown(ids=(name,)))
        with pytest.raises(UsageError, match="--with-kept"):
            take_down(Path("out"), Takedown(ids=(name, "nobody"), ignore_unknown=True))
    assert everything("out") == before
    shutil.copytree("out", "other")
    manifest = take_down(Path("out"), Takedown(ids=("z", "near0"), with_kept=True))
    named = ("z", "near0", "d0", "d1")
    assert take_down(Path("other"), Takedown(ids=named))["counts"] == manifest["counts"]
    for output in ("out", "other"):
        check_account(output)
        assert not any(is_anywhere(output, number) for number in (0, 1))
        lines = removed(output)
        taken = {line["id"] for line in lines if line.get("taken_down")}
        assert taken == {"z", "near0"}
        assert {line["id"] for line in lines if line["reason"] == "takedown"} == {"d0", "d1"}
    (entry,) = manifest["history"]
    assert (entry["num_documents"], entry["num_removed_before"]) == (2, 2)
    after = everything("out")
    assert take_down(Path("out"), Takedown(ids=named)) == manifest
    assert everything("out") == after


def test_lists_of_an_older_version_name_what_was_kept_by_its_id():
    build()
    with RemovedWriter(Path("older.zst")) as older:
        for line in removed("out"):
            older.write(**{k: v for k, v in line.items() if k not in ("hash", "kept_location")})
    os.replace("older.zst", "out/removed.jsonl.zst")
    with pytest.raises(UsageError, match=r"'z' was removed .* of 'd1'.* in/a.jsonl:2,"):
        take_down(Path("out"), Takedown(ids=("z",)))
    take_down(Path("out"), Takedown(ids=("z",), with_kept=True))
    check_account("out")
    assert not is_anywhere("out", 1)


def test_of_a_document_that_a_filter_dropped_no_sample_is_left_and_it_stays_out():
    question = "which of these thirteen words in a row is the one you need most of all"
    Path("questions.txt").write_text(question)
    text = f"{secret(50)} {question}"
    write_lines("in/b.jsonl", {"id": "dropped", "text": text}, {"id": "e", "text": text})
    build(decontamination=DecontaminationConfig(files=("questions.txt",)))
    reasons = {line["id"]: line["reason"] for line in removed("out")}
    assert (reasons["dropped"], reasons["e"]) == ("benchmark_overlap", "exact_duplicate")
    assert is_anywhere("out", 50)
    shutil.copytree("out", "other")
    shards = sorted((path, path.stat().st_ino) for path in Path("out").rglob("shard-*"))
    # Naming the copy leaves no sample of the one that was kept for it, either.
    for output, name in (("out", "dropped"), ("other", "e")):
        manifest = take_down(Path(output), Takedown(ids=(name,)))
        check_account(output)
        assert not is_anywhere(output, 50)
        assert manifest["history"][0]["num_removed_before"] == 1
        assert manifest["history"][0]["num_documents"] == 0
        write_lines("c.jsonl", {"id": "again", "text": f" {text}"})
        manifest = append("c.jsonl", output=output, decontamination=DecontaminationConfig())
        assert manifest["history"][1]["dropped"] == {"takedown": 1}
        assert not is_anywhere(output, 50)
        check_account(output)
    assert {path for path, _ in shards} == set(Path("out").rglob("shard-*"))


def test_near_copies_that_were_removed_stay_out_of_an_append_too():
    texts = build()
    near = texts[0].replace("x7 ", "y ")
    take_down(Path("out"), Takedown(ids=("d0", "d1")))
    write_lines("b.jsonl", {"id": "again", "text": f"{near}\n"}, {"id": "z", "text": texts[1]})
    manifest = append("b.jsonl")
    check_account("out")
    assert manifest["history"][1]["dropped"] == {"takedown": 2}
    assert not is_anywhere("out", 0)
    # Those of texts that are still there are removed as ever.
    write_lines("c.jsonl", {"id": "other", "text": texts[3].replace("x7 ", "y ")})
    assert append("c.jsonl")["history"][2]["dropped"] == {"near_duplicate": 1}


def test_a_shard_number_is_not_given_again():
    build(max_tokens=1200)
    used = set(Path("out").rglob("shard-*.bin"))
    for round in range(2):
        *_, rows = index_rows(Path("out"), "train")
        take_down(Path("out"), Takedown(ids=(rows.column("id")[-1].as_py(),)))
        assert set(Path("out").rglob("shard-*.bin")) < used
        texts = [secret(100 + 20 * round + number) for number in range(4)]
        write_lines(f"{round}.jsonl", *({"text": text} for text in texts))
        before = set(Path("out").rglob("shard-*.bin"))
        append(f"{round}.jsonl")
        new = set(Path("out").rglob("shard-*.bin")) - before
        assert "train" in {path.parent.name for path in new}
        assert not new & used
        used |= new
        check_account("out")


def test_documents_that_are_divided_between_the_splits_go_from_both():
    build(split=TailSplit(val_fraction=0.3))
    manifest = take_down(Path("out"), Takedown(ids=("d4",)))
    assert not is_anywhere("out", 4)
    assert manifest["counts"]["dropped"]["takedown"] == 1
    assert manifest["bytes"]["dropped"]["takedown"] == len(secret(4))


def test_what_cannot_be_done_is_refused_and_changes_nothing():
    build()
    before = everything("out")
    with pytest.raises(BadInputError, match="nothing would be left of"):
        take_down(Path("out"), Takedown(sources=("s0", "s1", "s2")))
    with pytest.raises(UsageError, match="name the documents to take down"):
        take_down(Path("out"), Takedown())
    with FolderLock("out"), pytest.raises(UsageError, match="being written"):
        take_down(Path("out"), Takedown(ids=("d1",)))
    with pytest.raises(UsageError, match="no dataset"):
        take_down(Path("nowhere"), Takedown(ids=("d1",)))
    assert everything("out") == before
    Path("out/account.json").unlink()
    with pytest.raises(MismatchError, match=r"no account\.json"):
        take_down(Path("out"), Takedown(ids=("d1",)))
