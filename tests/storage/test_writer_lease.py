"""One writer per URL: a live one is never replaced, a silent one is, and notices when it wakes."""

import json
import threading

import pytest

from jaxgpt.errors import UsageError
from jaxgpt.storage import remote_folder, writer_lease
from jaxgpt.storage.remote_folder import RemoteFolder
from jaxgpt.storage.writer_lease import Lease, ReplacedError
from tests import stores


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> RemoteFolder:
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(writer_lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(writer_lease, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(writer_lease, "SETTLE_SECONDS", 0.1)
    stores.empty()
    return RemoteFolder(stores.URL)


def kill(lease: Lease) -> None:
    """End its thread, as the end of its process would."""
    lease._released.set()
    assert lease._thread is not None
    lease._thread.join()


def test_a_live_writer_is_not_replaced_and_is_named(folder) -> None:
    lease = Lease(folder, "one")
    assert lease.take() is False
    with pytest.raises(UsageError, match=r"is being written by host .+, process \d+"):
        Lease(folder, "two").take()
    lease.require()
    lease.release()
    second = Lease(folder, "two")
    assert second.take() is False
    second.release()


def test_who_comes_back_to_its_own_folder_does_not_wait(folder, monkeypatch) -> None:
    killed = Lease(folder, "one")
    killed.take()
    kill(killed)
    monkeypatch.setattr(writer_lease.time, "sleep", lambda seconds: pytest.fail("it waited"))
    again = Lease(folder, "one")
    assert again.take() is True
    again.release()
    third = Lease(folder, "one")
    assert third.take() is True
    third.release()


def test_a_silent_writer_is_replaced_and_notices(folder) -> None:
    silent = Lease(folder, "one")
    silent.take()
    kill(silent)
    newcomer = Lease(folder, "two")
    assert newcomer.take() is False
    with pytest.raises(ReplacedError, match="is now written by"):
        silent.require()
    with pytest.raises(ReplacedError):
        silent.release()
    newcomer.require()
    kill(newcomer)
    assert json.loads(folder.read("writer.json"))["writer"] == "two"


def test_of_many_newcomers_at_once_one_becomes_the_writer(folder, monkeypatch) -> None:
    monkeypatch.setattr(writer_lease, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(writer_lease, "LEASE_SECONDS", 2.0)
    first = Lease(folder, "0")
    first.take()
    first.release()
    taken: list[Lease] = []

    def take(name: str) -> None:
        lease = Lease(folder, name)
        try:
            lease.take()
        except UsageError:
            return
        taken.append(lease)

    threads = [threading.Thread(target=take, args=(str(n),)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].release()


def test_a_store_that_fails_for_a_while_does_not_end_the_writer(folder) -> None:
    lease = Lease(folder, "one")
    lease.take()
    failed = threading.Event()

    def fail(operation: str, path: str) -> None:
        failed.set()
        raise OSError("unreachable")

    with stores.before_each(fail):
        assert failed.wait(5)
    lease.require()
    lease.release()
