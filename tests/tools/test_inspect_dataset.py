"""`tools/inspect_dataset.py`: every record of the input can be found again, kept or dropped."""

import itertools
import json
import random
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxgpt.command_line import run_verb
from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.documents.splits import HashSplit, TailSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
from jaxgpt.data.shards import TokenDataset
from jaxgpt.tools.inspect_dataset import main
from tests.tiny import make_texts

CONFIG = DatasetConfig(
    split=HashSplit(val_fraction=0.2),
    tokenizer=DatasetTokenizer(kind="char", vocab_size=400),
    executor=ExecutorConfig(kind="serial"),
)
LONG = " ".join(f"word{number} \u4e2d" for number in range(900))


def records() -> list[dict[str, str]]:
    texts = make_texts(60)
    found = [
        {"id": f"page-{number:03d}", "text": text, "source": f"site-{number % 3}", "license": "CC0"}
        for number, text in enumerate(texts)
    ]
    # Copies up to whitespace; the first id in the alphabet is kept.
    found += [{"id": f"z-{number}", "text": f" {texts[number]}"} for number in (3, 3, 5)]
    # Two words of many are different: a near duplicate.
    near = LONG.replace("word7 ", "other ").replace("word500 ", "another ")
    found += [{"id": "long", "text": LONG, "url": "https://example.org"}]
    found += [{"id": "longer", "text": near}, {"id": "blank", "text": " "}]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    lines = "".join(json.dumps(record) + "\n" for record in records())
    (folder / "input.jsonl").write_text(lines, "utf-8")
    build_dataset([str(folder / "input.jsonl")], folder / "data", CONFIG)
    return folder


def look(folder: Path, capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    main(["--dataset", str(folder / "data"), "--json", "--max-documents", "1000", *arguments])
    return json.loads(capsys.readouterr().out)


def removed_entries(folder: Path) -> list[dict]:
    with zstandard.open(folder / "data" / "removed.jsonl.zst", "rt") as file:
        return [json.loads(line) for line in file]


def fail(folder: Path, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int | str, str]:
    with pytest.raises(SystemExit) as stop:
        run_verb(main, ["--dataset", str(folder / "data"), *arguments])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert stop.value.code is not None
    return stop.value.code, error


def test_every_record_is_found_once_where_it_came_from(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    dataset = TokenDataset.open(folder / "data")
    tokenizer = dataset.load_tokenizer()
    statuses = set()
    for line, record in enumerate(records(), start=1):
        location = f"{folder / 'input.jsonl'}:{line}"
        found = look(folder, capsys, "--location", location, "--full")
        (document,) = found["documents"]
        assert found["num_found"] == 1
        assert (document["id"], document["location"]) == (record["id"], location)
        statuses.add(document["status"])
        if document["status"] == "removed":
            continue
        assert document["text"] == record["text"]
        for name in ("license", "url"):
            assert document[name] == record.get(name, "")
        # Independently: the shards' own index has a document at these tokens.
        split = dataset.splits[document["split"]]
        starts = [*split.document_starts(0, split.num_tokens).tolist(), split.num_tokens]
        start, stop = list(itertools.pairwise(starts))[document["number"]]
        assert (start, stop - start) == (document["first_token"], document["num_tokens"])
        assert tokenizer.decode(split.read(start, stop).tolist()) == record["text"]
    assert statuses == {"kept", "removed"}


def test_a_copy_leads_to_what_was_kept_and_back(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    removed = look(folder, capsys, "--id", "z-3")["documents"]
    assert [document["reason"] for document in removed] == ["exact_duplicate"] * 2
    assert [[kept["id"] for kept in document["kept"]] for document in removed] == [["page-003"]] * 2
    (kept,) = look(folder, capsys, "--id", "page-003")["documents"]
    assert kept["num_removed_for_it"] == 2
    assert {entry["id"] for entry in kept["removed_for_it"]} == {"z-3"}
    (alone,) = look(folder, capsys, "--id", "page-004")["documents"]
    assert (alone["num_removed_for_it"], alone["removed_for_it"]) == (0, [])


def test_a_near_duplicate_is_shown_beside_the_kept_text(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (entry,) = [entry for entry in removed_entries(folder) if entry["id"] in ("long", "longer")]
    (document,) = look(folder, capsys, "--reason", entry["reason"], "--full")["documents"]
    assert document["similarity"] == entry["similarity"] < 1
    (kept,) = document["kept"]
    texts = {record["id"]: record["text"] for record in records()}
    assert {kept["id"], document["id"]} == {"long", "longer"}
    assert kept["text"] == texts[kept["id"]]
    (back,) = look(folder, capsys, "--id", kept["id"])["documents"]
    assert [other["id"] for other in back["removed_for_it"]] == [document["id"]]


def test_the_most_similar_of_all_documents_are_named_whatever_bands_they_share(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    chooser = random.Random(0)
    sentences = [" ".join(f"word{n}x{k}" for k in range(8)) for n in range(12)]
    texts = (" ".join(chooser.choices(sentences, k=5)) for _ in range(40))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "input.jsonl").write_text(lines, "utf-8")
    build_dataset([str(tmp_path / "input.jsonl")], tmp_path / "data", CONFIG)
    arguments = ("--random", "1000", "--full")
    documents = look(tmp_path, capsys, *arguments, "--similar", "3")["documents"]

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[n : n + 5]) for n in range(max(len(words) - 4, 1))}

    sets = {document["location"]: shingles(document["text"]) for document in documents}
    num_found = 0
    for document in documents:
        own = sets[document["location"]]
        expected = [
            (len(own & other) / len(own | other), location)
            for location, other in sets.items()
            if location != document["location"] and own & other
        ]
        expected.sort(key=lambda each: (-each[0], each[1]))
        found = [(entry["similarity"], entry["location"]) for entry in document["similar"]]
        assert found == expected[:3]
        num_found += len(found)
    assert num_found > 20
    main(["--dataset", str(tmp_path / "data"), "--random", "5", "--similar", "1"])
    assert "kept too, in " in capsys.readouterr().out


def test_texts_are_shortened_unless_asked_for(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (long,) = [
        document
        for document in look(folder, capsys, "--id", "long")["documents"]
        + look(folder, capsys, "--id", "longer")["documents"]
        if document["status"] == "kept"
    ]
    (whole,) = look(folder, capsys, "--location", long["location"], "--full")["documents"]
    assert len(whole["text"]) > 5000
    assert long["text"] == whole["text"][:400] + "..."


def test_sources_and_reasons_list_all_that_have_them(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    expected = {record["id"] for record in records() if record.get("source") == "site-1"}
    found = look(folder, capsys, "--source", "site-1")["documents"]
    assert {document["id"] for document in found} == expected
    counts = TokenDataset.open(folder / "data").manifest["counts"]["dropped"]
    assert set(counts) >= {"exact_duplicate", "empty"}
    for reason, count in counts.items():
        found = look(folder, capsys, "--reason", reason)
        assert found["num_found"] == len(found["documents"]) == count
        assert {document["reason"] for document in found["documents"]} == {reason}


def test_a_draw_is_of_its_seed_and_without_repetition(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    def drawn(*arguments: str) -> list[str]:
        found = look(folder, capsys, *arguments)["documents"]
        return [document["location"] for document in found]

    draws = [drawn("--random", "7", "--seed", str(seed)) for seed in range(4)]
    assert drawn("--random", "7", "--seed", "2") == draws[2]
    assert all(len(set(locations)) == 7 for locations in draws)
    assert len({tuple(locations) for locations in draws}) == 4
    every = set(drawn("--random", "1000"))
    assert len(every) == TokenDataset.open(folder / "data").manifest["counts"]["kept"]
    assert len(drawn("--random", "2", "--reason", "exact_duplicate")) == 2
    some = look(folder, capsys, "--random", "3", "--source", "site-0")
    assert {document["source"] for document in some["documents"]} == {"site-0"}
    assert some["num_found"] == 20


def test_what_was_kept_and_removed_later_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    # As if a later stage had removed the document that was kept for an exact copy.
    chain = [
        {"id": "a", "stage": "exact_duplicates", "reason": "exact_duplicate", "location": "a:1"}
        | {"kept_id": "b"},
        {"id": "b", "stage": "decontamination", "reason": "benchmark_text", "location": "b:1"},
    ]
    with zstandard.open(tmp_path / "data" / "removed.jsonl.zst", "wt") as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in chain))
    (document,) = look(tmp_path, capsys, "--id", "a")["documents"]
    assert (document["kept"], document["kept_was_removed"]) == ([], chain[1:])
    main(["--dataset", str(tmp_path / "data"), "--id", "a"])
    out = capsys.readouterr().out
    assert "kept instead, and removed later: b (b:1): benchmark_text" in out
    assert out.count("no document is kept for it") == 1


@pytest.mark.parametrize("with_places", [True, False])
def test_kept_documents_are_followed_to_the_one_that_is_in_the_dataset(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, with_places: bool
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    (kept,) = look(tmp_path, capsys, "--id", "page-003")["documents"]
    names = [("a", "a:1"), ("b", "b:1"), ("c", "c:1"), (kept["id"], kept["location"])]
    chain = []
    for (id, location), (kept_id, kept_location) in itertools.pairwise(names):
        entry = {"id": id, "stage": "near_duplicates", "reason": "near_duplicate"}
        entry |= {"location": location, "kept_id": kept_id}
        chain.append(entry | ({"kept_location": kept_location} if with_places else {}))
    other = {**chain[1], "location": "b:2", "kept_id": "nobody", "kept_location": "nowhere:1"}
    # A listing may name them in any order, and (of damaged input) in a circle.
    circle = [
        {**chain[0], "id": id, "location": f"{id}:1", "kept_id": to, "kept_location": f"{to}:1"}
        for id, to in ("xy", "yx")
    ]
    with zstandard.open(tmp_path / "data" / "removed.jsonl.zst", "wt") as file:
        for entry in [*([other] if with_places else []), *reversed(chain), *circle]:
            file.write(json.dumps(entry) + "\n")
    (document,) = look(tmp_path, capsys, "--id", "a")["documents"]
    assert document["kept_was_removed"] == chain[1:]
    assert [each["location"] for each in document["kept"]] == [kept["location"]]
    main(["--dataset", str(tmp_path / "data"), "--id", "a"])
    out = capsys.readouterr().out
    assert out.index("removed later: b") < out.index("removed later: c") < out.index("page-003")
    (document,) = look(tmp_path, capsys, "--id", "x")["documents"]
    assert (document["kept"], document["kept_was_removed"]) == ([], circle[1:])


def test_people_are_shown_the_same(folder: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["--dataset", str(folder / "data")]
    main([*argv, "--id", "page-003"])
    out = capsys.readouterr().out
    assert out.startswith("kept: page-003\n")
    assert "  license: CC0\n" in out
    assert f"  | {records()[3]['text'].splitlines()[0]}\n" in out
    assert "  removed in favour of it: 2\n    z-3 (" in out
    main([*argv, "--id", "z-5"])
    out = capsys.readouterr().out
    assert out.startswith("removed: z-5\n")
    assert "  reason: exact_duplicate (stage exact_duplicates)\n" in out
    assert "  kept instead: page-005\n" in out
    main([*argv, "--source", "site-2", "--max-documents", "2"])
    assert capsys.readouterr().out.endswith("\n2 of 20 documents shown\n")


def test_a_document_in_two_splits_is_shown_in_both(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "input.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records()[:5]), "utf-8"
    )
    config = replace(CONFIG, split=TailSplit())
    build_dataset([str(tmp_path / "input.jsonl")], tmp_path / "data", config)
    head, tail = look(tmp_path, capsys, "--id", "page-002")["documents"]
    assert (head["split"], tail["split"]) == ("train", "val")
    assert head["text"] + tail["text"] == records()[2]["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--id", "page-0003"], "did you mean 'page-003'?"),
        (["--id", "z-33"], "did you mean 'z-3'?"),
        (["--reason", "exact_duplicates"], "did you mean 'exact_duplicate'?"),
        (["--source", "site-11"], "did you mean 'site-1'?"),
        (["--location", "elsewhere.jsonl:1"], "no document with location 'elsewhere.jsonl:1'"),
        ([], "choose documents by one of --id"),
        (["--id", "a", "--source", "b"], "choose documents by one of --id"),
        (["--random", "0"], "--random 0 must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    code, error = fail(folder, capsys, *arguments)
    assert code == 2
    assert message in error


def test_an_index_of_other_shards_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "input.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records()[:9]), "utf-8"
    )
    build_dataset([str(tmp_path / "input.jsonl")], tmp_path / "data", CONFIG)
    index = folder / "data" / "train" / "documents.parquet"
    (tmp_path / "data" / "train" / "documents.parquet").write_bytes(index.read_bytes())
    capsys.readouterr()
    code, error = fail(tmp_path, capsys, "--id", "page-003")
    assert code == 79
    assert "the index of train has" in error
    (tmp_path / "data" / "train" / "documents.parquet").unlink()
    assert fail(tmp_path, capsys, "--id", "page-003")[0] == 79


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_index_whose_documents_begin_elsewhere_is_refused(
    split: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    path = tmp_path / "data" / split / "documents.parquet"
    rows = pq.read_table(path)
    # The number of documents and of tokens stays what it was; where the first one ends does not.
    sizes = rows["num_tokens"].to_pylist()
    sizes[0], sizes[1] = sizes[0] - 1, sizes[1] + 1
    column = rows.schema.get_field_index("num_tokens")
    pq.write_table(rows.set_column(column, "num_tokens", pa.array(sizes)), path)
    for more in ([], ["--full"]):
        code, error = fail(tmp_path, capsys, "--location", rows["location"][1].as_py(), *more)
        assert code == 79
        assert "the shards have no document there" in error
