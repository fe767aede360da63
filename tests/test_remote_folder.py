"""A folder at a URL: the same on every kind of store; what fails for a moment is tried again."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxgpt import remote_folder
from jaxgpt.durable import is_temporary
from jaxgpt.errors import UsageError
from jaxgpt.remote_folder import RemoteFolder, StoreError
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
    """Both ways of writing; what the kill leaves beside is told apart by its name."""
    contents = {bytes([letter]) * 30_000_000 for letter in b"ab"}
    for letter in "ab":
        (tmp_path / letter).write_bytes(letter.encode() * 30_000_000)
    url = f"file://{tmp_path}/store"
    script = (
        "import sys\n"
        "from jaxgpt.remote_folder import RemoteFolder\n"
        "folder = RemoteFolder(sys.argv[1])\n"
        "while True:\n"
        "    for letter in 'ab':\n"
        "        folder.write('written', letter.encode() * 30_000_000)\n"
        "        folder.upload(f'{sys.argv[2]}/{letter}', 'uploaded')\n"
    )
    folder = RemoteFolder(url)
    for kill in range(6):
        with subprocess.Popen([sys.executable, "-c", script, url, str(tmp_path)]) as process:
            deadline = time.monotonic() + 60
            while "uploaded" not in folder.list() or not any(map(is_temporary, folder.list())):
                assert process.poll() is None
                assert time.monotonic() < deadline
            time.sleep(0.013 * kill)
            process.kill()
        names = {name for name in folder.list() if not is_temporary(name)}
        assert names == {"written", "uploaded"}
        assert all(folder.read(name) in contents for name in names)
        folder.delete(name for name in folder.list() if is_temporary(name))


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
        ("gs://bucket/run", r"gcsfs.*pip install 'jaxgpt\[gcs\]'"),
        ("s3://bucket/run", r"s3fs.*pip install 'jaxgpt\[s3\]'"),
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
