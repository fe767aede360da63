"""A dataset of more shards than a process may open files: everything that reads one works."""

import errno
import itertools
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import replace
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import ShardsConfig
from jaxgpt.corpus.dataset.export import export_dataset
from jaxgpt.corpus.dataset.inspect import Selection, inspect
from jaxgpt.corpus.stats.account import read_account
from jaxgpt.corpus.takedown.takedown import Takedown, take_down
from jaxgpt.data import shards
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset, open_training_batches
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import JaxgptError, MismatchError
from tests.corpus.building import CONFIG, write_lines
from tests.corpus.test_append import append

NUM_SHARDS = 64
NUM_HANDLES = 25


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A dataset with a document in each shard."""
    folder = tmp_path_factory.mktemp("many")
    texts = [f"text {number} of {number * number}" for number in range(NUM_SHARDS)]
    write_lines(folder / "in.jsonl", *({"id": f"d{n}", "text": t} for n, t in enumerate(texts)))
    config = replace(CONFIG, shards=ShardsConfig(max_tokens=30))
    build_dataset([str(folder / "in.jsonl")], folder / "out", config)
    return folder / "out"


@pytest.fixture
def few_handles():
    """Let this process open only a few more files than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir("/proc/self/fd")))
    free = itertools.islice((n for n in itertools.count() if n not in taken), NUM_HANDLES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_training_export_and_inspection_read_more_shards_than_files_may_be_open(
    many, few_handles, tmp_path
):
    dataset = TokenDataset.open(many)
    assert len(dataset.splits["train"].shards) > 1.5 * NUM_HANDLES
    data = DataConfig(datasets=(WeightedDataset(path=str(many)),))
    batches = open_training_batches(data, BatchConfig(sequence_length=8, global_batch_size=64), 0)
    read = np.concatenate([batches.batch(step).tokens_BT.ravel() for step in range(20)])
    assert len(np.unique(read)) > 10
    counts = export_dataset(dataset, tmp_path / "exported", "parquet")
    assert sum(split["num_documents"] for split in counts.values()) == NUM_SHARDS
    found = inspect(dataset, Selection(num_random=200))
    assert len(found["documents"]) == NUM_SHARDS
    dataset.verify()


def test_append_and_takedown_work_on_more_shards_than_files_may_be_open(
    many, few_handles, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("out").symlink_to(many)
    write_lines("b.jsonl", *({"id": f"b{n}", "text": f"{n} more {n + 7}"} for n in range(20)))
    assert (
        append("b.jsonl", shards=ShardsConfig(max_tokens=30))["counts"]["kept"] == NUM_SHARDS + 20
    )
    manifest = take_down(Path("out"), Takedown(ids=tuple(f"b{n}" for n in range(0, 20, 2))))
    assert manifest["counts"]["kept"] == NUM_SHARDS + 10


def test_mappings_are_let_go_beyond_a_number_of_them(many, monkeypatch):
    monkeypatch.setattr(shards, "MAX_MAPPED", 5)
    split = TokenDataset.open(many).splits["train"]
    everything = split.read(0, split.num_tokens)
    starts = split.document_starts(0, split.num_tokens)
    mapped = Path("/proc/self/maps").read_text().count(str(many))
    assert mapped <= 10
    for start, stop in itertools.pairwise(reversed([*starts.tolist(), split.num_tokens])):
        np.testing.assert_array_equal(split.read(stop, start), everything[stop:start])
        assert split.document_starts(stop, start).tolist() == [stop]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("opened", ["jaxgpt.data.shards.map_npy", "jaxgpt.data.shards.map_array"])
def test_a_file_that_the_machine_cannot_open_is_not_called_damaged(
    many, monkeypatch, number, opened
):
    def fail(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    split = TokenDataset.open(many).splits["train"]
    monkeypatch.setattr(opened, fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        split.read(0, 5) if opened.endswith("array") else split.document_starts(0, 5)


def read_index(many):
    inspect(TokenDataset.open(many), Selection(num_random=2))


@pytest.mark.parametrize(
    ("function", "read"),
    [
        ("jaxgpt.corpus.dataset.document_index.pq.ParquetFile", read_index),
        ("jaxgpt.corpus.stats.account.Path.read_text", read_account),
    ],
)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ETIMEDOUT])
def test_an_error_of_the_machine_is_never_a_mismatch(many, monkeypatch, function, read, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(function, fail)
    with pytest.raises(JaxgptError, match=f"cannot read .*{os.strerror(number)}") as caught:
        read(many)
    assert caught.value.exit_code == 1


def test_a_missing_index_is_a_mismatch(many, monkeypatch):
    split = TokenDataset.open(many).splits["train"]
    monkeypatch.setattr(shards, "index_path", lambda path: path.with_suffix(".gone"))
    with pytest.raises(
        MismatchError,
        match=r"\.gone is missing: .*; build the dataset again if it has lost the file",
    ):
        split.document_starts(0, 5)


@pytest.mark.parametrize("kind", ["bin", "idx.npy"])
def test_a_shard_that_a_merge_has_taken_away_says_to_start_again(many, tmp_path, kind):
    shutil.copytree(many, tmp_path / "data")
    split = TokenDataset.open(tmp_path / "data").splits["train"]
    (tmp_path / "data" / "train" / f"shard-00000.{kind}").unlink()
    with pytest.raises(MismatchError, match=r"is missing: .*run the same command again"):
        split.read(0, 5) if kind == "bin" else split.document_starts(0, 5)
