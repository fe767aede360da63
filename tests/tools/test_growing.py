"""`tools/append_dataset.py` and `tools/takedown.py` as users meet them."""

import json
from pathlib import Path

import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.corpus.build import build_dataset
from jaxgpt.errors import UsageError
from jaxgpt.tools import append_dataset, takedown
from tests.corpus.building import CONFIG, stored_texts, write_lines


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset `out` of twenty documents, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_lines("a.jsonl", *({"id": f"d{n}", "text": f"text number {n}"} for n in range(20)))
    build_dataset(["a.jsonl"], Path("out"), CONFIG)
    return Path("out")


SEED = ["--seed", "1"]
SERIAL = ["--executor.kind", "serial"]


def test_text_is_appended_with_the_settings_of_the_dataset(dataset, capsys):
    write_lines("b.jsonl", b"bad", *({"body": f"another {n}"} for n in range(3)))
    arguments = ["--dataset", "out", "--input", "b.jsonl", *SERIAL]
    append_dataset.main([*arguments, "--sources.text-key", "body", "--json"])
    result = json.loads(capsys.readouterr().out)
    (entry,) = result["history"]
    assert (entry["read"], entry["kept"]) == (4, 3)
    assert entry["settings"] == {"sources.text_key": "body"}
    assert result["counts"]["kept"] == 23
    append_dataset.main([*arguments, "--sources.text-key", "body"])
    said = capsys.readouterr().out
    assert "4 read (27 B), 3 kept (27 B)" in said
    assert "dropped, malformed_json: 1 (0 B)" in said
    # As an older version has recorded it.
    manifest = json.loads(Path("out/manifest.json").read_text("utf-8"))
    del manifest["history"][0]["read_bytes"], manifest["history"][0]["dropped_bytes"]
    Path("out/manifest.json").write_text(json.dumps(manifest), "utf-8")
    append_dataset.main([*arguments, "--sources.text-key", "body"])
    said = capsys.readouterr().out
    assert "4 read, 3 kept (27 B)" in said
    assert "dropped, malformed_json: 1\n" in said


def test_names_of_documents_may_come_from_files(dataset, capsys):
    Path("ids.txt").write_text("d3\nd4\n\n")
    arguments = ["--dataset", "out", "--id", "d1", "--id-file", "ids.txt", "--note", "request 5"]
    takedown.main([*arguments, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["history"][0]["num_documents"] == 3
    assert result["history"][0]["note"] == "request 5"
    texts = {text for split in stored_texts("out").values() for text in split}
    assert texts == {f"text number {n}" for n in range(20) if n not in (1, 3, 4)}
    takedown.main(arguments)
    assert "3 documents" in capsys.readouterr().out
    write_lines("b.jsonl", {"id": "copy", "text": "text number 7"})
    append_dataset.main(["--dataset", "out", "--input", "b.jsonl", *SERIAL])
    takedown.main(["--dataset", "out", "--id", "copy", "--with-kept"])
    assert "named, 1 had been removed before" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"cannot read nowhere\.txt"):
        takedown.main(["--dataset", "out", "--location-file", "nowhere.txt"])


@pytest.mark.parametrize(
    ("main", "arguments", "code", "said"),
    [
        (append_dataset.main, ["--dataset", "out", "--input", "nowhere"], 2, "nowhere"),
        (append_dataset.main, ["--dataset", "none", "--input", "a.jsonl"], 2, "no dataset at none"),
        (
            append_dataset.main,
            ["--dataset", "out", "--input", "a.jsonl", "--seed", "1"],
            79,
            "seed",
        ),
        (takedown.main, ["--dataset", "out", "--id", "d77"], 2, "did you mean"),
        (takedown.main, ["--dataset", "out"], 2, "--source, --id or --location"),
    ],
)
def test_errors_are_one_line_with_the_exit_code_of_the_contract(
    dataset, capsys, monkeypatch, main, arguments, code, said
):
    monkeypatch.setattr("sys.argv", ["tool", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_verb(main)
    assert caught.value.code == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert said in line
