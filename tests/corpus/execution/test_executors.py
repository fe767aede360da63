"""Executors: everything is done once, whoever dies; nobody is left behind."""

import functools
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.execution.executor import SerialExecutor
from jaxgpt.corpus.execution.processes import ProcessExecutor
from jaxgpt.errors import BadInputError, ConfigError, JaxgptError


def square(number, advance):
    advance(number)
    return number * number, os.getpid()


def wait_for(path: Path, advance):
    while not path.exists():
        time.sleep(0.01)
    return path.name, os.getpid()


def die_once(folder: Path, number, advance):
    marker = folder / str(number)
    if number % 3 == 0 and not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()


def die(advance):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(advance):
    raise BadInputError("line 7 is bad")


def fail_oddly(advance):
    class Local(Exception):
        """Cannot be found by another process."""

    raise Local("odd")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.05)
    return not any(map(is_running, pids))


@pytest.fixture
def executor():
    executor = ProcessExecutor(2)
    yield executor
    executor.close()


@pytest.mark.parametrize("make", [SerialExecutor, lambda: ProcessExecutor(3)])
def test_every_piece_is_done_once_and_progress_adds_up(make):
    executor, advanced = make(), []
    work = [functools.partial(square, number) for number in range(20)]
    results = sorted(result for result, _ in executor.run(work, advanced.append))
    executor.close()
    assert results == [number**2 for number in range(20)]
    if isinstance(executor, SerialExecutor):
        assert sum(advanced) == sum(range(20))


def test_workers_work_at_the_same_time_and_live_on(executor, tmp_path):
    def make_files(amount):
        # Called while both wait: neither can be finished before the other has begun.
        (tmp_path / "a").touch()
        (tmp_path / "b").touch()

    work = [functools.partial(wait_for, tmp_path / name) for name in "ab"]
    first = {pid for _, pid in executor.run(work, make_files)}
    assert len(first) == 2
    assert os.getpid() not in first
    again = [functools.partial(square, number) for number in range(6)]
    assert {pid for _, pid in executor.run(again, lambda amount: None)} <= first


def test_one_piece_needs_no_worker(executor):
    ((_, pid),) = executor.run([functools.partial(square, 3)], lambda amount: None)
    assert pid == os.getpid()


def test_killed_workers_are_replaced_and_their_work_is_done(executor, tmp_path):
    work = [functools.partial(die_once, tmp_path, number) for number in range(9)]
    results = sorted(number for number, _ in executor.run(work, lambda amount: None))
    assert results == list(range(9))
    assert len(list(tmp_path.iterdir())) == 3


def test_work_that_kills_whoever_does_it_is_given_up(executor):
    with pytest.raises(JaxgptError, match=r"killed by SIGKILL 3 times.*--executor.workers"):
        list(executor.run([die, functools.partial(square, 1)], lambda amount: None))


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [(fail, BadInputError, "line 7 is bad"), (fail_oddly, RuntimeError, "Local: odd")],
)
def test_what_a_piece_raises_arrives_and_the_others_stop(executor, work, error, message, tmp_path):
    forever = functools.partial(wait_for, tmp_path / "never")
    seen = []

    def note(amount):
        seen.extend(worker.process.pid for worker in executor._workers)

    with pytest.raises(error, match=message):
        list(executor.run([forever, work], note))
    assert wait_until_gone(set(seen))


def test_a_stop_ends_the_workers(executor, tmp_path):
    pids = []

    def stop(amount):
        pids.extend(worker.process.pid for worker in executor._workers)
        raise KeyboardInterrupt

    forever = [functools.partial(wait_for, tmp_path / "never")] * 2
    with pytest.raises(KeyboardInterrupt):
        list(executor.run(forever, stop))
    assert len(set(pids)) == 2
    assert wait_until_gone(pids)


PARENT = """
import functools, pathlib, sys
sys.path.insert(0, sys.argv[1])
from test_executors import ProcessExecutor, wait_for
executor = ProcessExecutor(2)
def show(amount):
    print(*(worker.process.pid for worker in executor._workers), flush=True)
work = [functools.partial(wait_for, pathlib.Path("/nowhere/never"))] * 2
list(executor.run(work, show))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_their_parent(number):
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, here], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        parent.send_signal(number)
    assert wait_until_gone(pids)


class SlowRay(types.ModuleType):
    """A Ray whose processes come up at the third start, or never."""

    def __init__(self, num_failures: int) -> None:
        super().__init__("ray")
        self.left = num_failures

    def init(self, **_: Any) -> None:
        self.left -= 1
        if self.left >= 0:
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None:
        pass

    def remote(self, **_: Any) -> Any:
        return lambda function: function


def test_a_ray_that_is_slow_to_start_is_started_again(monkeypatch, caplog):
    slow = SlowRay(2)
    monkeypatch.setitem(sys.modules, "ray", slow)
    ExecutorConfig(kind="ray").build()
    assert slow.left == -1, "it was started three times"
    assert caplog.text.count("starting it again") == 2
    monkeypatch.setitem(sys.modules, "ray", SlowRay(3))
    with pytest.raises(JaxgptError, match=r"Ray does not start .* --executor\.kind"):
        ExecutorConfig(kind="ray").build()


def test_ray_is_asked_for_by_name_and_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[ray\]'"):
        ExecutorConfig(kind="ray").build()
