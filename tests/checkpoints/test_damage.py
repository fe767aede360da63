"""Damaged checkpoints: each is found by whoever reads it, and the run goes on from a whole one."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.checkpoints import integrity, manager, step_content, step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.integrity import MANIFEST
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles
from jaxgpt.errors import JaxgptError, NoCheckpointError

STEPS = (1, 2, 3)
SPEC = jax.ShapeDtypeStruct((64,), np.float32)


def values_at(step):
    return np.random.default_rng(step).normal(size=64).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of three steps, to be copied."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, CheckpointConfig(keep_latest=9))
    for step in STEPS:
        array = jnp.asarray(values_at(step))
        checkpoints.save(step, {"w": array}, {"m": array + 1}, {"eval_loss": 10.0 - step})
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.fixture
def open_them(folder):
    opened = []

    def open_one(read_only, **config):
        config = CheckpointConfig(**{"keep_latest": 9, **config})
        opened.append(Checkpoints(folder, config, read_only=read_only))
        return opened[-1]

    yield open_one
    for checkpoints in opened:
        checkpoints.close()


def files_of(folder, step):
    return sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(path, bit=None):
    content = bytearray(path.read_bytes())
    bit = 4 * len(content) if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_all(checkpoints, step):
    params, state, _ = checkpoints.restore(step, {"w": SPEC}, {"m": SPEC})
    np.testing.assert_array_equal(params["w"], values_at(step))
    np.testing.assert_array_equal(state["m"], values_at(step) + 1)


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_of_each_file_in_turn_is_found_by_restore(folder, open_them, kind):
    paths = files_of(folder, 3)
    assert len(paths) > 10
    checkpoints = open_them(read_only=True)
    for path in paths:
        before = path.read_bytes()
        DAMAGES[kind](path)
        assert before != (path.read_bytes() if path.exists() else None)
        with pytest.raises(NoCheckpointError, match=f"step 3 is damaged.*{path.name}"):
            checkpoints.restore(3, {"w": SPEC}, {"m": SPEC})
        path.write_bytes(before)
    read_all(checkpoints, 3)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_writer_quarantines_and_goes_on_from_the_newest_whole_step(folder, open_them, kind):
    for step in (2, 3):
        DAMAGES[kind](files_of(folder, step)[-1])
    checkpoints = open_them(read_only=False)
    assert checkpoints.latest_verified() == 1
    assert names(folder) == ["1", "damaged-2", "damaged-3"]
    assert (
        files_of(folder, 1)[-1].name
        in json.loads((folder / "damaged-3" / "damaged.json").read_text())["reason"]
    )
    read_all(checkpoints, 1)
    for step in (2, 3):
        assert save(checkpoints, step)
    checkpoints.wait()
    assert checkpoints.latest_verified() == 3
    read_all(checkpoints, 3)


def test_hosts_other_than_the_first_know_a_step_that_was_saved_anew(folder, open_them, monkeypatch):
    flip(files_of(folder, 3)[-1])
    checkpoints = open_them(read_only=False)
    with monkeypatch.context() as patch:
        patch.setattr(manager, "jax", SimpleNamespace(process_index=lambda: 1))
        assert checkpoints.latest_verified() == 2
    step_folders.quarantine(folder, 3, "what the first host does")
    save(checkpoints, 3)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]


def test_a_writer_that_cannot_rename_uses_the_whole_step_all_the_same(
    folder, open_them, monkeypatch, caplog
):
    def read_only(*arguments):
        raise OSError(30, "Read-only file system")

    flip(files_of(folder, 3)[-1])
    monkeypatch.setattr(step_folders, "quarantine", read_only)
    checkpoints = open_them(read_only=False)
    assert (checkpoints.latest_verified(), checkpoints.steps()) == (2, [1, 2])
    assert "cannot be renamed: Read-only" in caplog.text


def test_a_reader_leaves_damaged_steps_out_and_everything_as_it_is(folder, open_them, caplog):
    path = next((folder / "3" / "params" / "ocdbt.process_0" / "d").iterdir())
    flip(path)
    before = names(folder)
    checkpoints = open_them(read_only=True)
    for name in ("latest", "best"):
        assert checkpoints.resolve(name) == 2
        assert path.name in caplog.text
        caplog.clear()
        checkpoints = open_them(read_only=True)
    with pytest.raises(NoCheckpointError, match=f"step 3 is damaged.*{path.name}") as error:
        checkpoints.resolve("3")
    assert error.value.exit_code == 81
    (folder / "2" / "metadata.json").write_text("")
    with pytest.raises(NoCheckpointError, match=r"metadata\.json has 0 bytes"):
        checkpoints.resolve(2)
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    with pytest.raises(NoCheckpointError, match=r"no whole checkpoint.*content is damaged"):
        checkpoints.resolve("latest")
    assert names(folder) == [name for name in before if name not in ("1", "2")]


def test_damage_of_what_is_not_read_does_not_stop_a_reader(folder, open_them):
    flip(next((folder / "3" / "training_state" / "ocdbt.process_0" / "d").iterdir()))
    checkpoints = open_them(read_only=True)
    step = checkpoints.resolve("latest")
    np.testing.assert_array_equal(checkpoints.restore_params(step, {"w": SPEC})["w"], values_at(3))
    assert checkpoints.latest_verified() == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_bit_that_flips_while_it_is_read_is_noticed(folder, open_them, monkeypatch, when):
    read = OrbaxFiles.read

    def flip_and_read(self, *arguments):
        path = next((folder / "3" / "params" / "ocdbt.process_0" / "d").iterdir())
        if when == "before":
            flip(path)
        values = read(self, *arguments)
        if when == "after":
            flip(path)
        return values

    checkpoints = open_them(read_only=True)
    assert checkpoints.resolve("latest") == 3
    monkeypatch.setattr(OrbaxFiles, "read", flip_and_read)
    with pytest.raises(NoCheckpointError, match=r"damaged|cannot be read"):
        checkpoints.restore_params(3, {"w": SPEC})


def test_steps_before_there_were_hashes_are_read_with_a_warning(folder, open_them, caplog):
    for step in STEPS:
        (folder / str(step) / MANIFEST).unlink()
        path = folder / str(step) / "metadata.json"
        path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    checkpoints = open_them(read_only=False)
    assert checkpoints.latest_verified() == 3
    assert "saved without hashes" in caplog.text
    read_all(checkpoints, 3)
    (folder / "3" / "params" / "_METADATA").unlink()
    assert checkpoints.latest_verified() == 2


# Saves that fail


def save(checkpoints, step):
    array = jnp.asarray(values_at(step))
    return checkpoints.save(step, {"w": array}, {"m": array + 1}, {})


def test_without_room_nothing_is_begun_and_the_next_interval_tries_again(
    folder, open_them, monkeypatch, caplog
):
    taken = sum(path.stat().st_size for path in files_of(folder, 3) if path.name != MANIFEST)
    room = SimpleNamespace(free=int(1.19 * taken))
    monkeypatch.setattr(step_content.shutil, "disk_usage", lambda path: room)
    checkpoints = open_them(read_only=False, max_failed_saves=3)
    before = names(folder)
    assert not save(checkpoints, 4)
    assert not save(checkpoints, 5)
    assert f"{room.free:,} bytes are free on its disk and {int(1.2 * taken):,}" in caplog.text
    assert names(folder) == before
    room.free = 2 * taken
    assert save(checkpoints, 6)
    checkpoints.wait()
    assert checkpoints.latest_verified() == 6
    room.free = 0
    for step in (7, 8):  # counted from the save that succeeded
        assert not save(checkpoints, step)
    with pytest.raises(JaxgptError, match=r"3 saves in a row have failed.*newest.*step 6") as error:
        save(checkpoints, 9)
    assert error.value.exit_code == 1
    assert not save(checkpoints, 9)
    with pytest.raises(JaxgptError, match="could not save step 9"):  # the last one of a run
        checkpoints.wait()


def test_a_folder_that_cannot_be_written_does_not_stop_the_training(folder, open_them, monkeypatch):
    checkpoints = open_them(read_only=False)

    def read_only(*arguments):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(OrbaxFiles, "start", read_only)
        assert not save(checkpoints, 4)
    (event,) = checkpoints.take_events()
    assert (event.name, event.step) == ("save_failed", 4)
    assert "Read-only file system" in event.detail
    assert save(checkpoints, 5)
    checkpoints.wait()
    read_all(checkpoints, 5)


def test_a_step_that_the_storage_does_not_give_back_never_counts(folder, open_them, monkeypatch):
    checkpoints = open_them(read_only=False, keep_latest=1)
    sync = integrity.sync_file

    def rot(path, forget):
        sync(path, forget)
        if path.parent.name == "d":
            flip(path)

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "sync_file", rot)
        save(checkpoints, 4)
        with pytest.raises(JaxgptError, match="does not return what was written"):
            checkpoints.wait()
    assert checkpoints.latest_verified() == 3  # nothing was deleted for the sake of step 4
    assert names(folder) == ["1", "2", "3"]


def test_a_damaged_newest_step_does_not_cost_the_whole_one_before(folder, open_them):
    checkpoints = open_them(read_only=False, keep_latest=2, keep_best=0)
    files_of(folder, 3)[-1].write_bytes(b"")
    save(checkpoints, 4)
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4]
    assert (folder / "3").exists()
    assert checkpoints.latest_verified() == 4
    read_all(checkpoints, 2)


# Going back


def test_abandoned_steps_are_not_found_and_go_when_the_run_is_past_them(folder, open_them):
    checkpoints = open_them(read_only=False)
    assert checkpoints.best() == 3
    assert checkpoints.latest_verified(before=3) == 2
    assert checkpoints.latest_verified(before=1) is None
    assert checkpoints.abandon_after(1) == [2, 3]
    assert (checkpoints.steps(), checkpoints.best()) == ([1], 1)
    assert names(folder) == ["1", "abandoned-2", "abandoned-3"]
    assert [event.name for event in checkpoints.take_events()] == ["abandon", "abandon"]
    again = open_them(read_only=False)
    assert again.latest_verified() == 1
    assert again.abandon_after(1) == []
    save(again, 2)
    again.wait()
    assert names(folder) == ["1", "2", "abandoned-3"]
    assert again.abandon_after(1) == [2]
    save(again, 4)
    again.wait()
    assert names(folder) == ["1", "4"]
    assert again.best() == 1  # not the loss of another step of that number
