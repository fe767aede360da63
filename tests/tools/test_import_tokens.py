"""`tools/import_tokens.py`: token files of others become the dataset that their text would give."""

import io
import itertools
import json
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.command_line import run_verb
from jaxgpt.corpus.build import build_dataset
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.dataset.document_index import index_rows
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.documents.splits import HashSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
from jaxgpt.data.shards import TokenDataset
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from jaxgpt.tools.import_tokens import main
from jaxgpt.tools.inspect_dataset import main as inspect_main
from tests.tiny import make_texts

TEXTS = [*make_texts(40, seed=7), "caf\u00e9 \u4e2d\u6587 \U0001f600\n\n  and so on. "]


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(make_texts(50), TokenizerConfig(vocab_size=320))


def write_nanogpt(path: Path, documents: list[list[int]], eos_id: int) -> None:
    """As nanoGPT's prepare.py: every document, then the id that ends it."""
    ids = [id for document in documents for id in [*document, eos_id]]
    path.write_bytes(struct.pack(f"<{len(ids)}H", *ids))


def write_megatron(
    path: Path, documents: list[list[list[int]]], code: int = 8, letter: str = "H"
) -> None:
    """As Megatron's IndexedDatasetBuilder: documents of sequences."""
    sequences = [sequence for document in documents for sequence in document]
    data = [struct.pack(f"<{len(sequence)}{letter}", *sequence) for sequence in sequences]
    pointers = [0, *itertools.accumulate(map(len, data))][:-1] if data else []
    entries = [0, *itertools.accumulate(map(len, documents))]
    path.write_bytes(b"".join(data))
    index = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code)
    index += struct.pack("<Q", len(sequences)) + struct.pack("<Q", len(entries))
    index += struct.pack(f"<{len(sequences)}i", *map(len, sequences))
    index += struct.pack(f"<{len(pointers)}q", *pointers)
    index += struct.pack(f"<{len(entries)}q", *entries)
    path.with_suffix(".idx").write_bytes(index)


def arguments(folder: Path, format: str) -> list[str]:
    tokenizer().save(folder / "tokenizer")
    return [
        *("--input", str(folder / "a.bin"), "--format", format),
        *("--tokenizer", str(folder / "tokenizer"), "--output", str(folder / "data")),
    ]


def stored_texts(folder: Path) -> list[str]:
    dataset = TokenDataset.open(folder)
    dataset.verify()
    texts = []
    for split in dataset.splits.values():
        starts = [*split.document_starts(0, split.num_tokens).tolist(), split.num_tokens]
        for start, stop in itertools.pairwise(starts):
            ids = split.read(start, stop).tolist()
            assert (ids[0], ids[-1]) == (tokenizer().bos_id, tokenizer().eos_id)
            texts.append(tokenizer().decode(ids[1:-1]))
    return texts


def fail(argv: list[str], capsys: pytest.CaptureFixture) -> tuple[int | str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_verb(main, argv)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert stop.value.code is not None
    return stop.value.code, error


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """The dataset of TEXTS, from text."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8"
    )
    config = DatasetConfig(
        near_duplicates=NearDuplicatesConfig(enabled=False),
        split=HashSplit(val_fraction=0.2),
        tokenizer=DatasetTokenizer(path=str(tokenizer().save(folder / "tokenizer"))),
        executor=ExecutorConfig(kind="serial"),
        seed=3,
    )
    manifest = build_dataset([str(folder / "a.jsonl")], folder / "data", config)
    assert manifest["counts"]["kept"] == len(TEXTS)
    return TokenDataset.open(folder / "data")


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("format", ["nanogpt", "uint16", "int32", "int64", "sentences"])
def test_the_dataset_is_the_one_that_the_text_gives(
    format: str, bos: bool, built: TokenDataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = [tokenizer().bos_id] if bos else []
    documents = [[*first, *tokenizer().encode(text)] for text in TEXTS]
    path = tmp_path / "a.bin"
    ended = [[*document, tokenizer().eos_id] for document in documents]
    if format == "nanogpt":
        write_nanogpt(path, documents, tokenizer().eos_id)
    elif format == "sentences":
        write_megatron(path, [[document[:3], [], document[3:]] for document in ended])
    else:
        code, letter = {"uint16": (8, "H"), "int32": (4, "i"), "int64": (5, "q")}[format]
        write_megatron(path, [[document] for document in ended], code, letter)
    argv = arguments(tmp_path, "nanogpt" if format == "nanogpt" else "megatron")
    argv += ["--val-fraction", "0.2", "--seed", "3", "--source", "mine", "--license", "CC0"]
    main([*argv, "--json"])
    report = json.loads(capsys.readouterr().out)
    dataset = TokenDataset.open(tmp_path / "data")
    assert report["fingerprint"] == dataset.fingerprint == built.fingerprint
    assert report["counts"] == {"read": len(TEXTS), "kept": len(TEXTS), "dropped": {}}
    assert {path.name for path in tmp_path.iterdir()} <= {"a.bin", "a.idx", "tokenizer", "data"}
    for split in ("train", "val"):
        rows = [row for batch in index_rows(dataset.directory, split) for row in batch.to_pylist()]
        expected = [
            row for batch in index_rows(built.directory, split) for row in batch.to_pylist()
        ]
        for name in ("hash", "num_tokens", "num_bytes"):
            assert [row[name] for row in rows] == [row[name] for row in expected]
        lines = [row["location"].rpartition(":")[2] for row in expected]
        assert [row["location"] for row in rows] == [f"{path}:{line}" for line in lines]
        assert {(row["source"], row["license"]) for row in rows} == {("mine", "CC0")}


@given(
    st.lists(st.text(st.sampled_from("ab \n\u00e9\u4e2d"), max_size=12), min_size=2, max_size=12),
    st.booleans(),
)
@settings(max_examples=25)
def test_every_document_is_stored_or_counted_as_empty(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], is_last_ended: bool
) -> None:
    folder = tmp_path_factory.mktemp("import")
    texts = [*texts, "the first one", "the second one"]
    write_nanogpt(folder / "a.bin", [tokenizer().encode(text) for text in texts], eos_id=3)
    assert tokenizer().eos_id == 3
    if not is_last_ended:
        (folder / "a.bin").write_bytes((folder / "a.bin").read_bytes()[:-2])
    main(arguments(folder, "nanogpt"))
    kept = [text for text in texts if text.strip()]
    assert sorted(stored_texts(folder / "data")) == sorted(kept)
    counts = TokenDataset.open(folder / "data").manifest["counts"]
    num_empty = len(texts) - len(kept)
    assert counts["dropped"] == ({"empty": num_empty} if num_empty else {})
    assert (counts["read"], counts["kept"]) == (len(texts), len(kept))


def test_another_id_may_end_documents(tmp_path: Path) -> None:
    write_nanogpt(tmp_path / "a.bin", [tokenizer().encode(text) for text in TEXTS], eos_id=0)
    main([*arguments(tmp_path, "nanogpt"), "--eos-id", "0"])
    assert sorted(stored_texts(tmp_path / "data")) == sorted(TEXTS)


def test_the_end_of_a_single_document_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = "".join(TEXTS)
    ids = tokenizer().encode(text)
    (tmp_path / "a.bin").write_bytes(struct.pack(f"<{len(ids)}H", *ids))
    main([*arguments(tmp_path, "nanogpt"), "--val-fraction", "0.25"])
    assert "one document only" in capsys.readouterr().out
    assert "".join(stored_texts(tmp_path / "data")) == text
    val = TokenDataset.open(tmp_path / "data").splits["val"]
    assert val.num_tokens - 2 == pytest.approx(len(ids) / 4, abs=1)


@pytest.mark.parametrize("format", ["nanogpt", "megatron"])
@pytest.mark.parametrize(("wrong", "code", "letter"), [(320, 8, "H"), (-1, 4, "i")])
def test_an_id_outside_of_the_vocabulary_is_named_with_its_place(
    format: str,
    wrong: int,
    code: int,
    letter: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    if format == "nanogpt" and wrong < 0:
        wrong = 65535
    documents = [tokenizer().encode(text) for text in TEXTS]
    place = len(documents[0]) + 4
    documents[1][4] = wrong
    if format == "nanogpt":
        write_nanogpt(tmp_path / "a.bin", documents, tokenizer().eos_id)
        place += 1
    else:
        write_megatron(tmp_path / "a.bin", [[document] for document in documents], code, letter)
    status, error = fail(arguments(tmp_path, format), capsys)
    assert status == 79
    assert f"token {place} (counted from 0) is id {wrong}, " in error
    assert "ids 0..319; it was made with another vocabulary" in error
    assert not (tmp_path / "data").exists()


def test_ids_of_another_vocabulary_are_refused_even_if_they_are_small(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = train_tokenizer(["xylophone quartz jumping wizards " * 50], TokenizerConfig())
    documents = [[id for id in other.encode(text) if id < tokenizer().vocab_size] for text in TEXTS]
    # The bytes of both vocabularies are alike; their pieces are not.
    documents = [[id + 17 if id < 300 else id for id in document] for document in documents]
    write_nanogpt(tmp_path / "a.bin", documents, tokenizer().eos_id)
    status, error = fail(arguments(tmp_path, "nanogpt"), capsys)
    assert status == 79
    assert "does not decode to text with this tokenizer" in error


def damage(path: Path, place: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + len(data)] = data
    path.write_bytes(content)


HEADER = 34
DAMAGES = {
    "magic": (".idx", 0, b"X", "is not the index of Megatron token files"),
    "version": (".idx", 9, b"\x02", "has format version 2; version 1 can be read"),
    "type": (".idx", 17, b"\x07", "has ids of type 7"),
    "width": (".idx", 17, b"\x04", "its sequences do not follow one another"),
    "sequences": (".idx", 18, b"\xff", "it is truncated or damaged"),
    "huge": (".idx", 18, b"\xff" * 8, "it is truncated or damaged"),
    "entries": (".idx", 26, b"\xff", "it is truncated or damaged"),
    "length": (".idx", HEADER, struct.pack("<i", 1), "its sequences do not follow one another"),
    "negative": (".idx", HEADER, struct.pack("<i", -1), "its sequences do not follow one another"),
    "pointer": (".idx", HEADER + 4 * len(TEXTS), b"\x02", "its sequences do not follow"),
    "first": (".idx", HEADER + 12 * len(TEXTS), b"\x01", "its document index does not run"),
    "falling": (".idx", HEADER + 12 * len(TEXTS) + 8, b"\x09", "its document index does not run"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_index_is_refused_by_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    suffix, place, data, message = DAMAGES[name]
    documents = [[tokenizer().encode(text)] for text in TEXTS]
    write_megatron(tmp_path / "a.bin", documents)
    damage(tmp_path / f"a{suffix}", place, data)
    status, error = fail(arguments(tmp_path, "megatron"), capsys)
    assert status == 79
    assert f"a{suffix}" in error
    assert message in error
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("cut", [1, 2, 8])
@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_truncated_files_are_refused(
    suffix: str, cut: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_megatron(tmp_path / "a.bin", [[tokenizer().encode(text)] for text in TEXTS])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(path.read_bytes()[:-cut])
    status, error = fail(arguments(tmp_path, "megatron"), capsys)
    assert status == 79
    assert "truncated" in error


@pytest.mark.parametrize(
    ("content", "more", "status", "message"),
    [
        (b"", [], 82, "is empty"),
        (b"abc", [], 79, "has 3 bytes, which is not a whole number of ids of type uint16"),
        (struct.pack("<3H", 3, 3, 3), [], 82, "no document with text in it"),
        (None, [], 2, "cannot read --input"),
        (b"ab", ["--eos-id", "320"], 2, "--eos-id 320 is not in the vocabulary"),
        (b"ab", ["--val-fraction", "1.5"], 78, "val_fraction = 1.5"),
        (b"ab", [], 79, "token 0 (counted from 0) is id 25185"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    content: bytes | None,
    more: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    if content is not None:
        (tmp_path / "a.bin").write_bytes(content)
    assert fail([*arguments(tmp_path, "nanogpt"), *more], capsys)[0] == status
    assert message in fail([*arguments(tmp_path, "nanogpt"), *more], capsys)[1]
    assert {path.name for path in tmp_path.iterdir()} <= {"a.bin", "tokenizer"}


def test_a_megatron_file_without_its_index_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "a.bin").write_bytes(b"ab")
    status, error = fail(arguments(tmp_path, "megatron"), capsys)
    assert status == 2
    assert "a.idx, the index next to a Megatron .bin" in error


def test_a_folder_with_something_in_it_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_nanogpt(tmp_path / "a.bin", [tokenizer().encode(text) for text in TEXTS], 3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "note.txt").write_text("mine", "utf-8")
    status, error = fail(arguments(tmp_path, "nanogpt"), capsys)
    assert status == 2
    assert "is not an empty folder" in error
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["note.txt"]


def write_ids(path: Path, documents: list[list[int]], dtype: str) -> np.ndarray:
    """Write documents, each with EOS, as numbers of a type; return all numbers."""
    eos_id = tokenizer().eos_id
    ids = np.array([id for document in documents for id in [*document, eos_id]], dtype)
    ids.tofile(path)
    return ids


@pytest.mark.parametrize("dtype", ["<u4", "<i4", "<i8", "<u8"])
def test_ids_of_four_and_eight_bytes_are_recognised(dtype: str, tmp_path: Path) -> None:
    write_ids(tmp_path / "a.bin", [tokenizer().encode(text) for text in TEXTS], dtype)
    main(arguments(tmp_path, "nanogpt"))
    assert sorted(stored_texts(tmp_path / "data")) == sorted(TEXTS)
    manifest = TokenDataset.open(tmp_path / "data").manifest
    assert manifest["imported"]["itemsize_bytes"] == np.dtype(dtype).itemsize
    assert manifest["imported"]["num_padding_tokens"] == 0


def with_llm_c_header(ids: np.ndarray, magic: int) -> bytes:
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, len(ids)
    return header.tobytes() + ids.tobytes()


def as_npy(ids: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, ids)
    return file.getvalue()


@pytest.mark.parametrize(
    ("dtype", "make", "said"),
    [
        ("<u2", as_npy, r"is a NumPy file .*numpy\.load\(FILE\)\.astype\('uint16'\)"),
        ("<i8", as_npy, "is a NumPy file"),
        ("<u2", lambda ids: with_llm_c_header(ids, 20240520), r"llm\.c .*20240520.*tail -c \+1025"),
        ("<u4", lambda ids: with_llm_c_header(ids, 20240801), r"llm\.c .*20240801"),
        ("<u2", lambda ids: b"MMIDIDX\0\0" + ids.tobytes() + b"\0", "index of Megatron .*--format"),
    ],
)
def test_headers_of_other_formats_are_refused_with_what_to_do(
    dtype: str,
    make: Callable[[np.ndarray], bytes],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    documents = [tokenizer().encode(text) for text in TEXTS]
    ids = write_ids(tmp_path / "a.bin", documents, dtype)
    (tmp_path / "a.bin").write_bytes(make(ids))
    status, error = fail(arguments(tmp_path, "nanogpt"), capsys)
    assert status == 79
    assert re.search(said, error)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("format", ["nanogpt", "megatron"])
def test_padding_around_documents_is_left_out_and_counted(
    format: str, built: TokenDataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bos, eos, pad = tokenizer().bos_id, tokenizer().eos_id, tokenizer().pad_id
    documents = [
        [*[pad] * (number % 3), bos, *tokenizer().encode(text), eos, *[pad] * (number % 4)]
        for number, text in enumerate(TEXTS)
    ]
    num_padding = sum(document.count(pad) for document in documents)
    if format == "megatron":
        write_megatron(tmp_path / "a.bin", [[document] for document in documents])
    else:
        ids = [id for document in documents for id in document]
        (tmp_path / "a.bin").write_bytes(struct.pack(f"<{len(ids)}H", *ids))
    argv = [*arguments(tmp_path, format), "--val-fraction", "0.2", "--seed", "3"]
    main(argv)
    assert f"padding left out: {num_padding:,} tokens" in capsys.readouterr().out
    dataset = TokenDataset.open(tmp_path / "data")
    assert dataset.manifest["imported"]["num_padding_tokens"] == num_padding
    assert dataset.fingerprint == built.fingerprint


@pytest.mark.parametrize("name", ["pad", "unk", "bos", "user", "end"])
@pytest.mark.parametrize("format", ["nanogpt", "megatron"])
def test_a_control_id_inside_a_document_is_refused_with_its_place(
    format: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    id = tokenizer().special_ids[name]
    documents = [tokenizer().encode(text) for text in TEXTS]
    documents[2].insert(5, id)
    place = sum(len(document) for document in documents[:2]) + 5
    if format == "nanogpt":
        write_nanogpt(tmp_path / "a.bin", documents, tokenizer().eos_id)
        place += 2
    else:
        write_megatron(tmp_path / "a.bin", [[document] for document in documents])
    status, error = fail(arguments(tmp_path, format), capsys)
    assert status == 79
    assert (
        f"a.bin: token {place} (counted from 0), inside document 3, is the control id {id} "
        in error
    )
    assert f"({name})" in error
    assert not (tmp_path / "data").exists()


def test_inspect_shows_control_ids_that_a_dataset_has_inside_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Datasets that were imported by earlier versions may have them."""
    write_nanogpt(tmp_path / "a.bin", [tokenizer().encode(text) for text in TEXTS], 3)
    main(arguments(tmp_path, "nanogpt"))
    path = tmp_path / "data" / "train" / "shard-00000.bin"
    damage(path, 6, struct.pack("<3H", 0, 0, 5))
    capsys.readouterr()
    inspect_main(["--dataset", str(tmp_path / "data"), "--random", "100"])
    out = capsys.readouterr().out
    assert out.count("control ids inside, which are no text: 2 x pad, 1 x user") == 1
    assert out.count("control ids") == 1
