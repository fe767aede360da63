"""Reading ahead: never more than asked, errors reach the consumer, nothing is left behind."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxgpt.data.prefetch import Prefetched
from tests.data.fake_split import FakeSplit, training_batches


def threads():
    return [thread for thread in threading.enumerate() if "jaxgpt-prefetch" in thread.name]


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order(depth):
    with Prefetched(lambda index: index * index, 5, depth) as items:
        assert [next(items) for _ in range(10)] == [index * index for index in range(5, 15)]


def test_it_reads_ahead_as_deep_as_asked_and_no_deeper():
    computed = []
    with Prefetched(lambda index: computed.append(index), 0, 3) as items:
        wait_until(lambda: len(computed) == 3)
        next(items)
        wait_until(lambda: len(computed) == 4)
        time.sleep(0.05)
        assert computed == [0, 1, 2, 3]


def test_a_ready_item_is_not_waited_for():
    gate = threading.Event()
    with Prefetched(lambda index: index if index < 2 else gate.wait(), 0, 2) as items:
        assert (next(items), next(items)) == (0, 1)  # though the third is stuck
        gate.set()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_is_raised_where_the_item_is_asked_for(depth):
    def compute(index):
        if index == 2:
            raise OSError("the disk is gone")
        return index

    with Prefetched(compute, 0, depth) as items:
        assert (next(items), next(items)) == (0, 1)
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)


def test_even_a_dying_thread_is_noticed_each_time():
    def compute(index):
        raise SystemExit("killed")

    with Prefetched(compute, 0, 1) as items:
        for _ in range(2):
            with pytest.raises(SystemExit):
                next(items)


def test_closing_ends_the_thread_and_the_iteration():
    before = len(threads())
    items = training_batches(FakeSplit(100)).iterate(0)
    next(items)
    assert len(threads()) == before + 1
    items.close()
    items.close()
    assert len(threads()) == before
    with pytest.raises(ValueError, match="closed"):
        next(items)


def test_an_iterator_that_is_dropped_leaves_no_thread():
    before = len(threads())
    items = Prefetched(lambda index: index, 0, 2)
    next(items)
    del items
    wait_until(lambda: len(threads()) == before)


def test_a_negative_depth_is_refused():
    with pytest.raises(ValueError, match="prefetch = -1"):
        Prefetched(lambda index: index, 0, -1)


def test_ctrl_c_ends_a_process_that_reads_ahead():
    program = (
        "import time\n"
        "from jaxgpt.data.prefetch import Prefetched\n"
        "items = Prefetched(lambda index: time.sleep(0.01), 0, 2)\n"
        "next(items)\n"
        "print('running', flush=True)\n"
        "for item in items: pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert errors.strip().endswith("KeyboardInterrupt")
