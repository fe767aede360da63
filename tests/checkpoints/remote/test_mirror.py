"""A URL holds whole steps only, whenever the copying ends and whatever the store does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.remote.download import fetch_run
from jaxgpt.checkpoints.remote.steps import RemoteSteps
from jaxgpt.checkpoints.remote.verification import verify_remote_run
from jaxgpt.errors import NoCheckpointError, UnfinishedError
from jaxgpt.storage.remote_folder import RemoteFolder, StoreError
from tests import stores
from tests.checkpoints.copying import CONFIG, empty_store, open_copy, restored, save  # noqa: F401

pytestmark = pytest.mark.usefixtures("empty_store")


class Killed(BaseException):
    """What a process does not survive."""


def files_of(run_dir: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run_dir).as_posix(): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_an_empty_machine_gets_what_was_copied(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a") as copy:
        save(tmp_path / "a", 10, 20)
        (tmp_path / "a" / "integrity.json").write_text("{}")
        (tmp_path / "a" / "env.json").write_bytes(b"\0\1")
        assert copy.push() is None
    with open_copy(tmp_path / "b"):
        assert files_of(tmp_path / "b") == files_of(tmp_path / "a")
        assert restored(tmp_path / "b") == 20


def test_killed_at_any_operation_the_url_holds_the_step_before_or_the_new_one(tmp_path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10, 20)
    save(tmp_path / "a", 30)
    before, found, number = dict(stores.StandInStore.store), set(), 0
    while True:
        stores.StandInStore.store.clear()
        stores.StandInStore.store.update(before)
        count = 0

        def kill(operation: str, path: str, number: int = number) -> None:
            nonlocal count
            count += 1
            if count > number:
                raise Killed

        with stores.before_each(kill):
            try:
                is_done = open_copy(tmp_path / "a").push() is None
            except Killed:
                is_done = False
        held = verify_remote_run(stores.URL)
        assert all(held.steps.values()), held.damage
        step = max(held.steps)
        assert step in (20, 30)
        logs = stores.content()["metrics.jsonl"].decode()
        assert step == 20 or '"step": 30' in logs, "a step came before its lines of the log"
        found.add(step)
        if is_done:
            break
        number += 1
    assert number > 30
    assert found == {20, 30}
    with open_copy(tmp_path / "b"):
        assert restored(tmp_path / "b") == 30


def test_what_a_failing_store_did_not_take_is_copied_later(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a") as copy:
        save(tmp_path / "a", 10)
        uploads = 0

        def fail(operation: str, path: str) -> None:
            nonlocal uploads
            uploads += operation == "upload"
            if operation == "upload" and uploads > 2:
                raise ConnectionError("reset by peer")

        with stores.before_each(fail):
            assert "ConnectionError: reset by peer" in str(copy.push())
        assert RemoteSteps(RemoteFolder(stores.URL)).counted() == []
        save(tmp_path / "a", 20)
        assert copy.push() is None
        assert RemoteSteps(RemoteFolder(stores.URL)).counted() == [10, 20]
        save(tmp_path / "a", 30)
        with stores.before_each(fail), pytest.raises(UnfinishedError, match=r"saved in .*not at"):
            copy.__exit__(None, None, None)
    assert RemoteSteps(RemoteFolder(stores.URL)).counted()[-1] == 30


def test_one_bit_of_any_object_is_found_and_never_fetched(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10, 20)
    before = stores.content()
    names = [name for name in before if name.startswith("checkpoints/20/") and before[name]]
    assert len(names) > 10
    for name in names:
        stores.flip_bit(name)
        found = verify_remote_run(stores.URL)
        assert name in found.damage or "checkpoints/20/integrity.json" in found.damage
        assert found.steps == {10: True, 20: False}
        with open_copy(tmp_path / "b"):
            assert restored(tmp_path / "b") == 10
        reason = json.loads(stores.content()["checkpoints/20/damaged.json"])["reason"]
        assert "checkpoints/20/" in reason
        assert "20" in verify_remote_run(stores.URL).set_aside
        shutil.rmtree(tmp_path / "b")
        RemoteFolder(stores.URL).delete(["checkpoints/20/damaged.json"])
        RemoteFolder(stores.URL).write(name, before[name])
    assert verify_remote_run(stores.URL).steps == {10: True, 20: True}


def test_nothing_whole_there_is_an_error_and_no_new_start(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10)
    RemoteFolder(stores.URL).delete(["checkpoints/10/metadata.json"])
    with pytest.raises(NoCheckpointError, match="only damaged 10"):
        open_copy(tmp_path / "b").__enter__()


def test_a_step_that_comes_back_changed_does_not_count(tmp_path: Path, monkeypatch) -> None:
    put, lies = stores.StandInStore.put_file, 1

    def put_wrong(store, file: str, path: str, **named: object) -> None:
        nonlocal lies
        put(store, file, path, **named)
        if path.endswith("metadata.json") and lies > 0:
            lies -= 1
            store.store[path].write(b"?")

    monkeypatch.setattr(stores.StandInStore, "put_file", put_wrong)
    with open_copy(tmp_path / "a") as copy:
        save(tmp_path / "a", 10)
        assert copy.push() is None, "once may happen"
        save(tmp_path / "a", 20)
        lies = 2
        assert "even after it was copied there twice" in str(copy.push())
        assert RemoteSteps(RemoteFolder(stores.URL)).counted() == [10]


def test_a_listing_of_some_time_ago_gives_no_wrong_step_and_no_new_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, root = stores.StandInStore.find, stores.StandInStore._strip_protocol(stores.URL)
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10, 20)
    old = {
        top: listing(stores.StandInStore(), top, detail=True)
        for top in (root, f"{root}/checkpoints")
    }
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 30, 40)  # 10 and 20 are deleted there
    monkeypatch.setattr(stores.StandInStore, "find", lambda store, path, detail: old.get(path, {}))
    with pytest.raises(StoreError, match="missing: 10, 20; run the same command again"):
        open_copy(tmp_path / "b").__enter__()
    monkeypatch.setattr(stores.StandInStore, "find", listing)
    with open_copy(tmp_path / "b"):
        assert restored(tmp_path / "b") == 40


def test_what_is_kept_there_is_what_is_kept_here(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_latest=2, keep_every_steps=30, keep_best=1)
    steps = RemoteSteps(RemoteFolder(stores.URL))
    with open_copy(tmp_path / "a", config) as copy:
        for step in range(10, 80, 10):
            checkpoints = Checkpoints(tmp_path / "a" / "checkpoints", config, copy=copy.push)
            metadata = {"step": step, "eval_loss": abs(step - 20.0)}
            checkpoints.save(step, {"w": np.full(10, step)}, {}, metadata)
            checkpoints.close()
            assert steps.counted() == checkpoints.steps()
    assert steps.counted() == [20, 30, 60, 70]
    with open_copy(tmp_path / "b", config) as copy:
        here = Checkpoints(tmp_path / "b" / "checkpoints", config, copy=copy.push)
        assert here.steps() == [20, 60, 70], "what is kept for good stays there"
        here.save(80, {"w": np.full(10, 80)}, {}, {"step": 80})
        here.close()
    assert steps.counted() == [20, 30, 60, 70, 80]


def test_the_best_step_there_is_one_that_was_measured_as_the_newest(tmp_path, caplog) -> None:
    config = CheckpointConfig(keep_latest=2, keep_best=1)
    with open_copy(tmp_path / "a", config) as copy:
        checkpoints = Checkpoints(tmp_path / "a" / "checkpoints", config, copy=copy.push)
        for step, loss, data in ((10, 1.0, "w"), (20, 3.0, "d"), (30, 3.5, "d"), (40, 4.0, "d")):
            metadata = {"eval_loss": loss, "eval_settings": {"data": data}}
            checkpoints.save(step, {"w": np.full(10, step)}, {}, metadata)
            checkpoints.wait()
            if step == 20:
                (tmp_path / "a" / "lineage.json").write_text("{}")
                assert copy.push() is None
                assert (fetch_run(stores.URL, "best") / "checkpoints" / "20").is_dir()
                assert "steps 10 are not compared" in caplog.text
        checkpoints.close()
    assert RemoteSteps(RemoteFolder(stores.URL)).counted() == [20, 30, 40]


def test_what_a_run_has_gone_back_from_is_found_by_nobody(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a") as copy:
        save(tmp_path / "a", 10, 20, loss=0.5)
        assert copy.push() is None
        checkpoints = Checkpoints(tmp_path / "a" / "checkpoints", CONFIG, copy=copy.push)
        checkpoints.abandon_after(10)
        checkpoints.save(15, {"w": np.full(1000, 15, np.float32)}, {}, {"step": 15})
        checkpoints.close()
        assert RemoteSteps(RemoteFolder(stores.URL)).counted() == [10, 15]
    with open_copy(tmp_path / "b"):
        assert restored(tmp_path / "b") == 15


def test_a_store_that_does_not_answer_at_the_start_is_no_empty_run(tmp_path: Path) -> None:
    with open_copy(tmp_path / "a"):
        save(tmp_path / "a", 10)

    def fail(operation: str, path: str) -> None:
        if operation == "list":
            raise TimeoutError("no answer")

    with stores.before_each(fail), pytest.raises(StoreError, match="no answer"):
        open_copy(tmp_path / "b").__enter__()
    with open_copy(tmp_path / "b"):
        assert restored(tmp_path / "b") == 10
