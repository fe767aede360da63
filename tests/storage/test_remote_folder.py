"""A folder at a URL: the same on every kind of store; what fails for a moment is tried again."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxgpt.errors import UsageError
from jaxgpt.storage import remote_folder
from jaxgpt.storage.remote_folder import RemoteFolder, StoreError
from tests import stores


@pytest.fixture(params=["memory", "file", "stand-in"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> RemoteFolder:
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    stores.empty()
    place = {"memory": tmp_path, "file": tmp_path, "stand-in": Path("/bucket")}[request.param]
    return RemoteFolder(f"{request.param}://{place}/run/")


def test_what_is_written_is_listed_read_and_gone_when_deleted(folder, tmp_path: Path) -> None:
    assert folder.list() == {}
    (tmp_path / "source").write_bytes(b"x" * 3_000_000)
    folder.write("a", b"one")
    folder.write("a", b"two!")
    folder.upload(tmp_path / "source", "deep/er/b")
    RemoteFolder(f"{folder.url}2").write("c", b"of another folder")
    assert folder.list() == {"a": 4, "deep/er/b": 3_000_000}
    assert folder.list("deep") == {"deep/er/b": 3_000_000}
    assert folder.read("a") == b"two!"
    assert folder.read_by("deep/er/b", lambda pieces: sum(map(len, pieces))) == 3_000_000
    folder.download("deep/er/b", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x" * 3_000_000
    folder.delete(["not there", "a", "deep/er/b"])
    assert folder.list() == {}
    for act in (folder.read, lambda path: folder.read_by(path, list)):
        with pytest.raises(FileNotFoundError):
            act("a")


def test_a_kill_leaves_an_object_of_a_folder_as_it_was_or_as_it_should_be(tmp_path: Path) -> None:
    """Both ways of writing."""
    contents = {bytes([letter]) * 30_000_000 for letter in b"ab"}
    for letter in "ab":
        (tmp_path / letter).write_bytes(letter.encode() * 30_000_000)
    url = f"file://{tmp_path}/store"
    script = (
        "import sys\n"
        "from jaxgpt.storage.remote_folder import RemoteFolder\n"
        "folder = RemoteFolder(sys.argv[1])\n"
        "while True:\n"
        "    for letter in 'ab':\n"
        "        folder.write('written', letter.encode() * 30_000_000)\n"
        "        folder.upload(f'{sys.argv[2]}/{letter}', 'uploaded')\n"
    )
    folder, objects = RemoteFolder(url), tmp_path / "store"
    for kill in range(6):
        process = subprocess.Popen([sys.executable, "-c", script, url, str(tmp_path)])
        try:
            deadline = time.monotonic() + 120
            while len(folder.list()) < 2 or not list(objects.glob(".*.tmp")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(0.013 * kill)
        finally:
            process.kill()
            process.wait()
        assert set(folder.list()) == {"written", "uploaded"}
        assert all(folder.read(name) in contents for name in folder.list())
    # What kills leave is removed when nobody can be writing it any more.
    new, old = objects / ".new.tmp", objects / ".old.tmp"
    for path in (new, old):
        path.touch()
    os.utime(old, (0, 0))
    folder.remove_leftovers()
    assert new.exists()
    assert not old.exists()
    assert set(folder.list()) == {"written", "uploaded"}


def test_what_does_not_answer_is_not_empty(tmp_path: Path, monkeypatch) -> None:
    """A run whose steps cannot be listed must not begin anew, and delete them later."""
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    folder = RemoteFolder(f"file://{tmp_path}")
    folder.write("checkpoints/4/manifest.json", b"{}")
    scan = os.scandir

    def fail(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("checkpoints"):
            raise OSError(errno.EIO, "Input/output error", path)
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            folder.list("checkpoints")
    assert folder.list("checkpoints") == {"checkpoints/4/manifest.json": 2}


def test_a_full_disk_leaves_no_object(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    folder = RemoteFolder(f"file://{tmp_path}/store")
    folder.write("a", b"old")

    def fail(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(StoreError, match="No space left"):
            folder.create("lock", b"mine")
        with pytest.raises(StoreError, match="No space left"):
            folder.write("a", b"new")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a"]
    assert folder.read("a") == b"old"
    assert folder.create("lock", b"mine")


def test_a_file_system_without_links(tmp_path: Path, monkeypatch) -> None:
    def fail(one: Path, other: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    test_one_of_two_creates(RemoteFolder(f"file://{tmp_path}"))


def test_threads_that_write_one_object_leave_one_of_theirs(tmp_path: Path) -> None:
    folder = RemoteFolder(f"file://{tmp_path}/store")
    contents = [bytes([letter]) * 1_000_000 for letter in b"abcd"]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            list(pool.map(lambda content: folder.write("a", content), contents))
            assert folder.read("a") in contents


def test_only_files_are_objects(tmp_path: Path) -> None:
    folder = RemoteFolder(f"file://{tmp_path}/store")
    folder.write("file", b"1")
    os.mkfifo(tmp_path / "store" / "pipe")
    (tmp_path / "store" / "loop").symlink_to("loop")
    (tmp_path / "store" / "gone").symlink_to("nowhere")
    assert folder.list() == {"file": 1}
    with pytest.raises(UsageError, match="give another URL"):
        RemoteFolder(f"file://{tmp_path}/store/file").create("lock", b"")


def test_a_home_folder_is_meant(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    RemoteFolder("file://~/runs").write("a", b"1")
    assert (tmp_path / "runs" / "a").read_bytes() == b"1"


def test_one_of_two_creates(folder) -> None:
    assert folder.create("lock", b"first")
    assert not folder.create("lock", b"second")
    assert folder.read("lock") == b"first"


def test_a_store_that_fails_for_a_moment_is_asked_again(monkeypatch) -> None:
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    stores.empty()
    folder = RemoteFolder(stores.URL)
    folder.write("a", b"1")
    fails = 2

    def fail(operation: str, path: str) -> None:
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise RuntimeError("503: slow\ndown")

    with stores.before_each(fail):
        assert folder.read("a") == b"1"
        fails = 3
        with pytest.raises(StoreError, match="run/a: RuntimeError: 503: slow down") as caught:
            folder.read("a")
    assert caught.value.exit_code == 75


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gs://bucket/run", r"gcsfs.*pip install -e '\.\[gcs\]'"),
        ("s3://bucket/run", r"s3fs.*pip install -e '\.\[s3\]'"),
        ("nothing://bucket/run", "Protocol not known.*give a path, or a URL"),
    ],
)
def test_a_url_that_cannot_be_reached_is_refused_by_name(url: str, words: str) -> None:
    if url.startswith(("gs", "s3")):
        try:
            __import__("gcsfs" if url.startswith("gs") else "s3fs")
        except ImportError:
            pass
        else:
            pytest.skip("its package is installed")
    with pytest.raises(UsageError, match=words):
        RemoteFolder(url)
