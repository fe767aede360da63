"""A manifest of hashes: every change of every file is found and named, and nothing else."""

import errno
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxgpt.checkpoints import integrity
from jaxgpt.checkpoints.integrity import (
    MANIFEST,
    Damage,
    find_damage,
    hash_files,
    hash_written,
    list_files,
    read_manifest,
    write_manifest,
)
from jaxgpt.errors import MismatchError

CONTENT = {"a": b"alpha", "sub/b": bytes(range(256)), "sub/deep/c": b"x" * 3_000_000, "empty": b""}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_manifest(tmp_path, hash_files(tmp_path, list_files(tmp_path)))
    return tmp_path


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def problems(folder, **how):
    return {damage.path: damage.problem for damage in find_damage(folder, **how)}


def test_a_folder_as_it_was_written_is_whole(folder):
    assert find_damage(folder) == []
    assert set(list_files(folder)) == CONTENT.keys()


def test_every_bit_of_the_manifest_counts(folder):
    path = folder / MANIFEST
    text = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for bit in range(8 * len(text)):
            os.pwrite(file.fileno(), bytes([text[bit // 8] ^ 1 << bit % 8]), bit // 8)
            assert isinstance(read_manifest(folder), Damage), f"bit {bit} of {text!r}"
            os.pwrite(file.fileno(), text[bit // 8 : bit // 8 + 1], bit // 8)
    assert find_damage(folder) == []


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(CONTENT.keys() - {"empty"})), place=st.floats(0, 1))
def test_a_flipped_bit_of_any_file_is_found(folder, name, place):
    bit = int(place * (8 * len(CONTENT[name]) - 1))
    flip(folder / name, bit)
    assert problems(folder).keys() == {name}
    flip(folder / name, bit)
    assert find_damage(folder) == []


def test_each_kind_of_damage_is_named(folder):
    (folder / "a").write_bytes(b"")
    (folder / "sub/b").write_bytes(CONTENT["sub/b"] + b"!")
    (folder / "sub/deep/c").unlink()
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    (folder / "sub/new").write_bytes(b"")
    assert problems(folder) == {
        "a": "has 0 bytes instead of 5",
        "empty": "is missing",
        "sub/b": "has 257 bytes instead of 256",
        "sub/deep/c": "is missing",
        "sub/new": "was added after the rest was written",
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is missing"),
        (b"", "is empty"),
        (b"[]", "is damaged"),
        (b"{}", "is damaged"),
        (b'{"hash": 1}', "its own checksum does not match"),
        (b"\xff\xfe", "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_damage(folder, content, problem):
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    assert problem in problems(folder)[MANIFEST]


def test_a_manifest_of_another_format_is_refused_by_name(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(integrity, "ALGORITHM", "md6")
        write_manifest(folder, {})
    with pytest.raises(MismatchError, match=r"md6.*use the version that wrote it"):
        read_manifest(folder)


def test_parts_are_compared_alone(folder):
    for name in ("a", "sub/b"):
        flip(folder / name, 3)
    (folder / "other").write_bytes(b"")
    assert problems(folder, within=("sub",)).keys() == {"sub/b"}
    assert problems(folder, within=("a", "sub/deep")).keys() == {"a"}
    assert problems(folder, unread=("sub", "a")).keys() == {"other"}
    (folder / "sub/deep/c").write_bytes(b"")
    assert problems(folder, unread=("sub",)).keys() == {"a", "other", "sub/deep/c"}


@given(of=st.integers(1, 6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_shares_together_read_everything_once(folder, of):
    for name in CONTENT.keys() - {"empty"}:
        flip(folder / name, 9)
    found = [problems(folder, share=(number, of)).keys() for number in range(of)]
    assert sorted(name for names in found for name in names) == ["a", "sub/b", "sub/deep/c"]
    for name in CONTENT.keys() - {"empty"}:
        flip(folder / name, 9)


def test_what_the_storage_does_not_give_back_is_an_error(folder, monkeypatch):
    assert hash_written(folder, ["a", "sub/b"]) == hash_files(folder, ["a", "sub/b"])
    monkeypatch.setattr(
        integrity, "sync_file", lambda path, forget: path.name == "b" and flip(path, 0)
    )
    with pytest.raises(OSError, match=r"does not return what was written to .*sub/b"):
        hash_written(folder, ["a", "sub/b"])


def test_the_manifest_is_plain_json(folder):
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert content["files"]["a"]["bytes"] == 5
    assert len(content["files"]["a"]["hash"]) == 32


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_what_the_machine_lacks_is_no_damage(folder, monkeypatch, number):
    """A checkpoint that is called damaged is set aside, and the run goes on from an older one."""

    def fail(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(integrity, "_hash_file", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        find_damage(folder)


def test_a_file_that_the_disk_cannot_read_is_damage(folder, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(integrity, "_hash_file", fail)
    assert [damage.path for damage in find_damage(folder)] == sorted(CONTENT)
