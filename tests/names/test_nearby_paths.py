"""A path that does not exist: the error names the one on the disk that was meant."""

from pathlib import Path

import pytest

from jaxgpt.config import load_config
from jaxgpt.corpus.readers.sources import find_inputs
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import JaxgptError
from jaxgpt.names.nearby_paths import describe_nearby_datasets, describe_nearby_runs
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.run import open_run


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch) -> Path:
    """A working directory with two runs, two datasets and a config."""
    monkeypatch.chdir(tmp_path)
    for run in ("base", "quickstart"):
        (tmp_path / "runs" / run / "checkpoints" / "100").mkdir(parents=True)
        (tmp_path / "runs" / run / "config.json").write_text("{}")
    for dataset in ("data/mine", "runs/quickstart/data"):
        (tmp_path / dataset / "tokenizer").mkdir(parents=True)
        (tmp_path / dataset / "manifest.json").write_text("{}")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/bsae", "; did you mean runs/base?"),
        ("base", "; did you mean runs/base?"),
        ("run/base", "; did you mean runs/base?"),
        ("runs/base/checkpoints/100", "; did you mean runs/base?"),
        ("runs/zzz", "; there are runs/base, runs/quickstart"),
        ("runs", "; there are runs/base, runs/quickstart"),
    ],
)
def test_a_run_is_found_by_a_similar_name_above_and_below(path: str, expected: str) -> None:
    assert describe_nearby_runs(Path(path)) == expected


def test_without_any_run_the_error_says_how_to_make_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path / "configs")
    assert "jaxgpt train" in describe_nearby_runs(Path("runs/mine"))


def test_a_dataset_is_found_next_to_the_path_and_in_runs() -> None:
    assert describe_nearby_datasets(Path("data/mien")) == "; did you mean data/mine?"
    assert describe_nearby_datasets(Path("runs/quickstart/dat")).endswith("runs/quickstart/data?")
    assert describe_nearby_datasets(Path("elsewhere/zzz")).startswith("; there are data/mine,")


@pytest.mark.parametrize(
    ("use", "meant"),
    [
        (lambda: load_config("configs/bsae.py", TrainConfig), "configs/base.py"),
        (lambda: load_config("base", TrainConfig), "configs/base.py"),
        (lambda: open_run("runs/quickstrat"), "runs/quickstart"),
        (lambda: TokenDataset.open("data/mein"), "data/mine"),
        (lambda: find_inputs(("dta",), Path("out"), ()), "data"),
    ],
)
def test_every_reader_of_a_path_says_what_was_meant(use, meant: str) -> None:
    with pytest.raises(JaxgptError) as error:
        use()
    assert f"did you mean {meant}?" in str(error.value)
    assert error.value.exit_code == 2
