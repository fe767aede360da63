"""A local folder and its copy at a URL have gone apart: which of the two counts."""

import shutil
from pathlib import Path

import pytest

from jaxgpt.checkpoints.remote import mirror
from jaxgpt.checkpoints.remote.steps import RemoteSteps
from jaxgpt.errors import UnfinishedError
from jaxgpt.storage.remote_folder import RemoteFolder
from tests import stores
from tests.checkpoints.copying import empty_store, open_copy, restored, save  # noqa: F401

pytestmark = pytest.mark.usefixtures("empty_store")


def test_a_folder_that_others_have_written_past_gives_way_to_the_url(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10)
    with open_copy(tmp_path / "b"):
        save(tmp_path / "b", 20)
    save(tmp_path / "a", 30, value=7)  # never copied
    with open_copy(tmp_path / "a"):
        assert restored(tmp_path / "a") == 20
    assert (tmp_path / "a" / "checkpoints" / "abandoned-30").is_dir()


def test_rot_here_is_mended_from_there(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10, 20)
    victim = next((tmp_path / "a" / "checkpoints" / "20" / "params").rglob("*manifest.ocdbt"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with open_copy(tmp_path / "a"):
        assert restored(tmp_path / "a") == 20
    assert (tmp_path / "a" / "checkpoints" / "damaged-20").is_dir()


def test_a_local_folder_that_was_emptied_empties_no_url(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10, 20)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    with open_copy(tmp_path / "a"):
        assert restored(tmp_path / "a") == 20
    assert RemoteSteps(RemoteFolder(stores.URL)).counted() == [10, 20]


def test_a_writer_that_was_replaced_writes_no_more_and_ends(tmp_path: Path, monkeypatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(mirror, "abandon", lambda code, message: ended.append(code))
    copy = open_copy(tmp_path / "a").__enter__()
    save(tmp_path / "a", 10)
    with open_copy(tmp_path / "b"):
        before = stores.content()
        copy.push()
        assert ended == [75]
        with pytest.raises(UnfinishedError, match="is now written by"):
            copy.__exit__(None, None, None)
        assert stores.content() == before
