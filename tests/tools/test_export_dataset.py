"""`tools/export_dataset.py`: every document comes out, whole, and builds the same dataset again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from jaxgpt.command_line import run_verb
from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.documents.splits import HashSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
from jaxgpt.data.shards import TokenDataset
from jaxgpt.tools.export_dataset import main
from tests.tiny import make_texts

NAMES = ("id", "source", "license", "url", "text")
CONFIG = DatasetConfig(
    split=HashSplit(val_fraction=0.2),
    tokenizer=DatasetTokenizer(vocab_size=320),
    executor=ExecutorConfig(kind="serial"),
    seed=5,
)


def make_records() -> list[dict[str, str]]:
    texts = [*make_texts(80), "\u4e2d\u6587 \U0001f600 \u00e9\n\n  e\u0301 \u2581 end", "x" * 3000]
    return [
        {
            "id": f"page {number}",
            "source": f"site {number % 3}",
            "license": "CC0" if number % 2 else "",
            "url": f"https://example.org/{number}" if number % 5 else "",
            "text": text,
        }
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    lines = "".join(json.dumps(record) + "\n" for record in make_records())
    (folder / "input.jsonl").write_text(lines, "utf-8")
    build_dataset([str(folder / "input.jsonl")], folder / "data", CONFIG)
    return folder / "data"


def export(
    dataset: Path, output: Path, format: str, capsys: pytest.CaptureFixture, *more: str
) -> dict:
    argv = ["--dataset", str(dataset), "--output", str(output), "--format", format, *more]
    capsys.readouterr()
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def read_parquet(path: Path) -> list[dict[str, str]]:
    table = pq.read_table(path)
    assert tuple(table.column_names) == NAMES
    return table.to_pylist()


def read_array_record(path: Path) -> list[dict[str, str]]:
    reader = ArrayRecordReader(str(path))
    assert "group_size:1" in reader.writer_options_string()
    records = [json.loads(data) for data in reader.read_all()]
    # What training does: any record by its number.
    assert json.loads(reader.read([len(records) - 1])[0]) == records[-1]
    reader.close()
    return records


READERS = {"parquet": read_parquet, "arrayrecord": read_array_record}


@pytest.mark.parametrize("format", READERS)
def test_each_document_is_one_record_with_all_its_fields(
    format: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report = export(dataset, tmp_path / "out", format, capsys)
    found = []
    for split, counts in TokenDataset.open(dataset).splits.items():
        (file,) = (tmp_path / "out" / split).iterdir()
        records = READERS[format](file)
        assert len(records) == counts.num_documents > 0
        assert report["splits"][split] == {
            "num_documents": counts.num_documents,
            "num_bytes": sum(len(record["text"].encode()) for record in records),
            "num_files": 1,
        }
        found += records
    assert all(tuple(record) == NAMES for record in found)
    assert sorted(found, key=lambda record: record["id"]) == sorted(
        make_records(), key=lambda record: record["id"]
    )
    # Nothing but the two folders is left, here or beside.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "val"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize("format", READERS)
def test_files_are_divided_between_documents_and_keep_the_order(
    format: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    export(dataset, tmp_path / "one", format, capsys)
    export(dataset, tmp_path / "many", format, capsys, "--max-file-bytes", "1500")
    for split in ("train", "val"):
        (one,) = (tmp_path / "one" / split).iterdir()
        files = sorted((tmp_path / "many" / split).iterdir())
        parts = [READERS[format](file) for file in files]
        assert len(parts) > 1
        assert [record for part in parts for record in part] == READERS[format](one)
        sizes = [[len(record["text"].encode()) for record in part] for part in parts]
        assert all(sum(part) <= 1500 or len(part) == 1 for part in sizes)


def test_building_again_from_parquet_gives_the_same_dataset(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    export(dataset, tmp_path / "out", "parquet", capsys, "--max-file-bytes", "2000")
    config = replace(CONFIG, tokenizer=DatasetTokenizer(path=str(dataset)))
    manifest = build_dataset([str(tmp_path / "out")], tmp_path / "again", config)
    first = TokenDataset.open(dataset).manifest
    # Texts, their order, their division and their tokens: all that training sees.
    assert manifest["fingerprint"] == first["fingerprint"]
    names = [source["name"] for source in manifest["sources"]]
    assert (
        names == [source["name"] for source in first["sources"]] == ["site 0", "site 1", "site 2"]
    )


def test_it_tells_people_what_it_wrote(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    main(
        ["--dataset", str(dataset), "--format", "parquet", "--output", str(tmp_path / "out")],
    )
    out = capsys.readouterr().out
    assert "train: " in out
    assert out.endswith(f"exported: {tmp_path / 'out'}\n")


def test_a_folder_with_something_in_it_is_left_as_it_is(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "note.txt").write_text("mine", "utf-8")
    for output in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(SystemExit) as stop:
            run_verb(
                main, ["--dataset", str(dataset), "--format", "parquet", "--output", str(output)]
            )
        assert stop.value.code == 2
        assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    assert (tmp_path / "note.txt").read_text("utf-8") == "mine"


@pytest.mark.parametrize("format", READERS)
def test_a_failure_leaves_nothing(
    format: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    class Full(Exception):
        pass

    def fail(*arguments: object) -> str:
        raise Full

    # What a killed process left does not get into the next export.
    (tmp_path / ".out.tmp" / "train").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "train" / "old.parquet").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.corpus.dataset.export.read_text", fail)
        with pytest.raises(Full):
            export(dataset, tmp_path / "out", format, capsys)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.tmp" / "train").mkdir(parents=True)
    (tmp_path / ".out.tmp" / "train" / "old.parquet").write_bytes(b"old")
    export(dataset, tmp_path / "out", format, capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert not (tmp_path / "out" / "train" / "old.parquet").exists()
