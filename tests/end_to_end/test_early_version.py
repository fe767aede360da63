"""A run and a dataset that an early version wrote: this version goes on with them as with its own.

`early_version/files.tar.xz` was written by the code of 26 November 2026, whose JSON names classes
by the files they then lay in: `data` is built of `text`, with `more` appended under settings of its
own; `run` has 12 steps on it; `expected.json` says what that code evaluates, generates and goes on
to train, and lists all types that it could write.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt import eval as evaluate
from jaxgpt import generate
from jaxgpt.checkpoints.verification import verify_run
from jaxgpt.config import replace
from jaxgpt.corpus.append import append_to_dataset
from jaxgpt.corpus.append_settings import recorded_config
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError
from jaxgpt.names.type_tags import find_class, type_tag
from jaxgpt.runs.run import open_run
from jaxgpt.tools import append_dataset
from jaxgpt.training.metrics import read_records
from tests.tiny import hash_folder, run_verb

FILES = Path(__file__).parent / "early_version" / "files.tar.xz"
DATA = Path("data")
APPENDED_WITH = ["--filters.profile=code", "--filters.code.max-mean-line-characters=10000"]


@pytest.fixture
def expected(tmp_path: Path, monkeypatch) -> dict[str, Any]:
    """Go to a folder with the files; return what the early version made of them."""
    with tarfile.open(FILES) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("expected.json").read_text())


def test_every_type_that_it_could_write_is_read_and_has_another_name_now(expected) -> None:
    for tag in expected["type_tags"]:
        cls = find_class(tag)
        assert isinstance(cls, type), tag
        assert find_class(type_tag(cls)) is cls
        assert type_tag(cls) != tag


def test_its_dataset_counts_as_built_and_its_text_as_appended(expected) -> None:
    before = hash_folder(DATA)
    build_dataset(["text"], DATA, recorded_config(DATA))
    append_dataset.main(["--dataset=data", "--input=more", *APPENDED_WITH])
    (DATA / ".lock").unlink()
    assert hash_folder(DATA) == before


def test_other_settings_of_its_dataset_are_still_refused_by_name(expected) -> None:
    other = r"dataset built from other input or settings: seed = 0 there, 1 here\."
    with pytest.raises(MismatchError, match=other):
        build_dataset(["text"], DATA, replace(recorded_config(DATA), seed=1))
    with pytest.raises(MismatchError, match=r"of the dataset: seed = 0 there, 1 here$"):
        append_to_dataset(["more"], DATA, replace(recorded_config(DATA), seed=1))


def test_its_dataset_is_added_to_and_taken_down_from(expected) -> None:
    kept = TokenDataset.open(DATA).manifest["counts"]["kept"]
    record = {"id": "third", "text": "A text of today that was in no version of the dataset.\n"}
    Path("today.jsonl").write_text(json.dumps(record))
    here = replace(recorded_config(DATA), executor=ExecutorConfig(kind="serial"))
    append_to_dataset(["today.jsonl"], DATA, here)
    assert TokenDataset.open(DATA).manifest["counts"]["kept"] == kept + 1
    take_down(DATA, Takedown(ids=("first-1", "second-1", "third")))
    dataset = TokenDataset.open(DATA)
    dataset.verify()
    manifest = dataset.manifest
    assert manifest["counts"]["kept"] == kept + 1 - 3
    assert [entry["operation"] for entry in manifest["history"]] == ["append", "append", "takedown"]


@pytest.mark.slow
def test_its_run_is_verified_evaluated_and_resumed_with_the_same_results(
    expected, capsys, tmp_path
) -> None:
    assert not verify_run(Path("run")).damage
    run = open_run("run")
    assert type(run.config.schedule).__name__ == "LinearDecay"
    capsys.readouterr()
    evaluate.main(["--checkpoint", "run", "--json"])
    found = json.loads(capsys.readouterr().out)
    for name, value in expected["eval"].items():
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5))
    generate.main(
        ["--checkpoint", "run", "--prompt", "The river", "--max-new-tokens=12", "--temperature=0"]
    )
    assert capsys.readouterr().out == expected["generated"]
    # A process of its own: this one has more devices than its batches have rows.
    trained = run_verb(
        "train", f"--config={tmp_path}/run/config.json", f"--run-dir={tmp_path}/run",
        f"--data={tmp_path}/data", "--resume=must", "--schedule.num-steps=20",
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "schedule.num_steps: 12 then, 20 now" in trained.stderr
    assert ".type:" not in trained.stderr
    records = read_records(Path("run/metrics.jsonl"))
    losses = {str(record["step"]): record["loss"] for record in records if "loss" in record}
    assert list(losses) == [str(step) for step in range(1, 21)]
    for step, loss in expected["losses"].items():
        np.testing.assert_allclose(losses[step], loss, rtol=1e-4)
    events = read_records(Path("run/events.jsonl"))
    (resumed,) = [event for event in events if event["event"] == "resume"]
    assert "changes" not in resumed, "the objective counts as another one"
    assert "jaxgpt:TrainConfig" in Path("run/config.json").read_text()
