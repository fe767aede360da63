"""Documents in, any window out; and a folder that is not what its manifest says is refused."""

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.manifest import token_dtype, write_manifest
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.data.shards import TokenDataset, TokenSplit
from jaxgpt.errors import JaxgptError, MismatchError, UsageError
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.tiny import make_texts


@cache
def small_tokenizer() -> Tokenizer:
    return train_tokenizer(make_texts(20), TokenizerConfig(vocab_size=300))


class Wide:
    """What a writer needs of a tokenizer whose ids take four bytes."""

    vocab_size, bos_id, eos_id = 70_000, 2, 3


def make_dataset(
    folder: Path, documents: list[list[int]], max_shard_tokens: int = 50, **about: Any
) -> Path:
    """Write `documents` as the training split of a dataset without validation."""
    tokenizer = small_tokenizer()
    tokenizer.save(folder / "tokenizer")
    splits = {}
    for split, contents in {"train": documents, "val": []}.items():
        with ShardWriter(folder, split, tokenizer, max_shard_tokens) as writer:
            for ids in contents:
                writer.add(ids, num_bytes=2 * len(ids))
        splits[split] = writer.shards
    write_manifest(folder, tokenizer, splits, about)
    return folder


def random_documents(num_documents: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(8, 300, rng.integers(0, 40)).tolist() for _ in range(num_documents)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "dataset", random_documents(30))


@pytest.mark.parametrize("tokenizer", [small_tokenizer(), Wide()], ids=["uint16", "uint32"])
@settings(max_examples=60, deadline=None)
@given(data=st.data(), max_shard_tokens=st.integers(1, 40))
def test_any_window_is_a_window_of_all_documents(
    tokenizer: Tokenizer,
    data: st.DataObject,
    max_shard_tokens: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ids = st.integers(0, tokenizer.vocab_size - 1)
    documents = data.draw(st.lists(st.lists(ids, max_size=60), max_size=12))
    folder = tmp_path_factory.mktemp("split")
    with ShardWriter(folder, "train", tokenizer, max_shard_tokens) as writer:
        for document in documents:
            writer.add(document, num_bytes=3 * len(document))
    split = TokenSplit(folder, writer.shards, token_dtype(tokenizer.vocab_size))

    stored = [np.array([2, *document, 3]) for document in documents]
    tokens = np.concatenate([np.empty(0, np.int64), *stored])
    starts = np.cumsum([0, *map(len, stored)])[:-1]
    assert (split.num_tokens, split.num_documents) == (len(tokens), len(documents))
    assert split.num_bytes == sum(3 * len(document) for document in documents)
    assert all(1 <= shard.num_tokens <= max_shard_tokens for shard in split.shards)
    bounds = st.integers(0, len(tokens))
    for start, stop in [(0, len(tokens)), sorted(data.draw(st.tuples(bounds, bounds)))]:
        window = split.read(start, stop)
        assert window.dtype == np.int32
        assert window.tolist() == tokens[start:stop].tolist()
        found = split.document_starts(start, stop)
        assert found.dtype == np.int64
        assert found.tolist() == starts[(start <= starts) & (starts < stop)].tolist()


def test_a_document_is_cut_only_if_it_is_longer_than_a_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", small_tokenizer(), max_shard_tokens=20) as writer:
        for length in (10, 9, 40, 3):
            writer.add([9] * length, num_bytes=length)
    # With BOS and EOS: 12, then 11 do not fit together; 42 are two shards and a rest.
    assert [shard.num_tokens for shard in writer.shards] == [12, 11, 20, 20, 7]
    assert [shard.num_documents for shard in writer.shards] == [1, 1, 1, 0, 1]
    assert [shard.num_bytes for shard in writer.shards] == [10, 9, 40, 0, 3]


def test_the_files_are_as_documented(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "val", small_tokenizer(), first_shard=7) as writer:
        writer.add([256, 9], num_bytes=2)
        writer.add([10], num_bytes=1)
    assert [shard.path for shard in writer.shards] == ["val/shard-00007.bin"]
    path = tmp_path / "val" / "shard-00007.bin"
    assert path.read_bytes() == bytes([2, 0, 0, 1, 9, 0, 3, 0, 2, 0, 10, 0, 3, 0])
    starts = np.load(tmp_path / "val" / "shard-00007.idx.npy", allow_pickle=False)
    assert (starts.dtype.str, starts.tolist()) == ("<i8", [0, 4])
    assert sorted(os.listdir(path.parent)) == ["shard-00007.bin", "shard-00007.idx.npy"]
    assert (token_dtype(2**16).str, token_dtype(2**16 + 1).str) == ("<u2", "<u4")


@pytest.mark.parametrize("ids", [[-1], [300], [70_000]])
def test_ids_outside_of_the_vocabulary_are_not_written(ids: list[int], tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "train", small_tokenizer()) as writer:
        writer.add([8, 299], num_bytes=2)
        with pytest.raises(ValueError, match=r"must lie in 0\.\.299"):
            writer.add(ids, num_bytes=1)
    assert writer.shards[0].num_tokens == 4


def test_an_interrupted_writer_leaves_whole_shards_only(tmp_path: Path) -> None:
    def write_until_it_fails() -> None:
        with ShardWriter(tmp_path, "train", small_tokenizer(), max_shard_tokens=10) as writer:
            writer.add([9] * 8, num_bytes=8)
            writer.add([9] * 3, num_bytes=3)
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        write_until_it_fails()
    assert sorted(os.listdir(tmp_path / "train")) == ["shard-00000.bin", "shard-00000.idx.npy"]


def test_a_failing_disk_leaves_no_half_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    writer = ShardWriter(tmp_path, "train", small_tokenizer())
    writer.add([9], num_bytes=1)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"), writer:
        pass
    assert os.listdir(tmp_path / "train") == []


def test_a_dataset_opens_with_all_it_holds(dataset: Path) -> None:
    opened = TokenDataset.open(str(dataset))
    train, val = opened.splits["train"], opened.splits["val"]
    assert len(train.shards) > 5
    assert opened.tokenizer_path == dataset / "tokenizer" / "tokenizer.model"
    assert opened.load_tokenizer().fingerprint == opened.manifest["tokenizer"]["sha256"]
    assert opened.manifest == json.loads((dataset / "manifest.json").read_text("utf-8"))
    assert opened.manifest["splits"]["train"]["num_tokens"] == train.num_tokens
    assert (val.num_tokens, val.num_documents, val.num_bytes) == (0, 0, 0)
    assert val.read(0, 0).tolist() == val.document_starts(0, 0).tolist() == []
    files = list(dataset.rglob("shard-*"))
    assert opened.verify() == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (0, 10**12), (10**9, 10**9)])
def test_a_window_outside_of_the_split_is_refused(dataset: Path, start: int, stop: int) -> None:
    split = TokenDataset.open(dataset).splits["train"]
    for read in (split.read, split.document_starts):
        with pytest.raises(IndexError, match=f"of a split that has {split.num_tokens}"):
            read(start, stop)


def test_the_fingerprint_is_of_the_data_alone(tmp_path: Path) -> None:
    documents = random_documents(10)
    changed = [*documents[:-1], [*documents[-1], 9]]
    same = [
        make_dataset(tmp_path / "one", documents),
        make_dataset(tmp_path / "two", documents, settings={"seed": 1}, sources=["elsewhere"]),
        Path(shutil.copytree(tmp_path / "one", tmp_path / "copy")),
    ]
    others = [
        make_dataset(tmp_path / "order", documents[::-1]),
        make_dataset(tmp_path / "changed", changed),
        make_dataset(tmp_path / "cut", documents, max_shard_tokens=10**6),
    ]
    assert len({TokenDataset.open(folder).fingerprint for folder in same}) == 1
    assert len({TokenDataset.open(folder).fingerprint for folder in [same[0], *others]}) == 4


def test_a_manifest_does_not_let_itself_be_overwritten(dataset: Path) -> None:
    with pytest.raises(ValueError, match="about has fingerprint, version"):
        write_manifest(dataset, small_tokenizer(), {}, {"version": 2, "fingerprint": "x"})


# A dataset that is not as it was written. Each takes the folder and damages it.


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _edit(*keys: Any, value: Any) -> Any:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        place = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")

    return edit


def _write(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


def _truncate(name: str) -> Any:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 2)


def _flip_a_bit(name: str) -> Any:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return flip


_SHARD = "train/shard-00001.bin"
_INDEX = "train/shard-00001.idx.npy"
_MODEL = "tokenizer/tokenizer.model"
_FIRST = ("splits", "train", "shards", 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_manifest, "is not a complete dataset: it has no manifest.json"),
        (_write("manifest.json", b"\xff not json"), "is not the manifest of a dataset"),
        (_write("manifest.json", b"[1, 2]"), "is not the manifest of a dataset"),
        (_write("manifest.json", b'{"name": "web app"}'), "is not the manifest of a dataset"),
        (_edit("version", value=2), "has format version 2, and this jaxgpt reads version 1"),
        (_edit("version", value="1"), "has format version '1'"),
        (_edit("dtype", value="float32"), "dtype: Input should be 'uint16' or 'uint32'"),
        (_edit(*_FIRST, "num_tokens", value=-4), "splits.train.shards.0.num_tokens"),
        (_edit(*_FIRST, "num_tokens", value="9"), "splits.train.shards.0.num_tokens"),
        (_edit(*_FIRST, value={}), "splits.train.shards.0.path"),
        (_edit(*_FIRST, "path", value="../../etc/passwd"), "outside the dataset's folder"),
        (_edit(*_FIRST, "path", value="/etc/passwd"), "outside the dataset's folder"),
        (_edit(*_FIRST, "sha256", value="0" * 64), "was changed after it was written"),
        (_edit("tokenizer", "sha256", value="0" * 64), "was changed after it was written"),
        (lambda folder: (folder / _SHARD).unlink(), f"{_SHARD} is missing"),
        (lambda folder: (folder / _INDEX).unlink(), f"{_INDEX} is missing"),
        (_truncate(_SHARD), f"{_SHARD} has"),
        (lambda folder: (folder / _MODEL).unlink(), f"{_MODEL} is missing"),
    ],
)
def test_what_is_no_whole_dataset_does_not_open(dataset: Path, damage: Any, message: str) -> None:
    damage(dataset)
    with pytest.raises(MismatchError) as caught:
        TokenDataset.open(dataset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip_a_bit(_SHARD), f"{_SHARD} is damaged: its SHA-256 is"),
        (_flip_a_bit(_INDEX), f"{_INDEX} is damaged: its SHA-256 is"),
        (_truncate(_INDEX), f"{_INDEX} is damaged: its SHA-256 is"),
        (_write(_MODEL, b"x"), "tokenizer.model: not a"),
        (
            lambda folder: train_tokenizer(["other"], TokenizerConfig()).save(folder / "tokenizer"),
            "the shards were written with",
        ),
    ],
)
def test_damage_inside_a_file_is_found_by_verify(dataset: Path, damage: Any, message: str) -> None:
    damage(dataset)
    opened = TokenDataset.open(dataset)
    with pytest.raises(JaxgptError) as caught:
        opened.verify()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate(_INDEX), "is damaged"),
        (_write(_INDEX, b"\x93NUMPY"), "is damaged"),
        (_write(_INDEX, b"cos\nsystem\n(S'echo'\ntR."), "is damaged"),
    ],
)
def test_a_damaged_index_is_not_read(dataset: Path, damage: Any, message: str) -> None:
    damage(dataset)
    split = TokenDataset.open(dataset).splits["train"]
    with pytest.raises(MismatchError, match=message):
        split.document_starts(0, split.num_tokens)


def test_an_index_of_another_shard_is_not_read(dataset: Path) -> None:
    np.save(dataset / _INDEX, np.zeros(1000, np.int32))
    split = TokenDataset.open(dataset).splits["train"]
    with pytest.raises(MismatchError, match=r"holds int32 \[1000\]; the manifest says int64"):
        split.document_starts(0, split.num_tokens)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no dataset at .*; build one with `python tools/"):
        TokenDataset.open(tmp_path / "absent")
