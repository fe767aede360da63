"""Hosts find each other, exchange facts, and notice who is gone; as threads of one process here."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxgpt.distributed.channel import HostChannel
from jaxgpt.distributed.launchers import HostPlacement
from jaxgpt.distributed.rendezvous import connect_hosts
from jaxgpt.errors import ConfigError, UnfinishedError
from tests.two_hosts import free_port


def _placements(num_hosts: int) -> list[HostPlacement]:
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        HostPlacement(coordinator=coordinator, num_hosts=num_hosts, host_id=host, launcher="test")
        for host in range(num_hosts)
    ]


def _all(function, items):
    """Run `function` of each item at the same time; what each returned or raised."""
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(function, item) for item in items]
        return [future.exception() or future.result() for future in futures]


class World:
    """Some hosts in touch, and how each was ended by its channel."""

    def __init__(self, num_hosts: int, heartbeat_seconds: float = 30.0) -> None:
        self.ends: dict[int, tuple[int, str]] = {}
        self.ended = threading.Semaphore(0)
        met = _all(
            lambda one: connect_hosts(one, f"node-{one.host_id}", 20.0), _placements(num_hosts)
        )
        self.links = [links for _, links in met]
        self.channels = [
            HostChannel(host, names, links, heartbeat_seconds, self._end_of(host))
            for host, (names, links) in enumerate(met)
        ]

    def _end_of(self, host):
        def end(code, message):
            self.ends[host] = (code, message)
            self.ended.release()

        return end

    def wait_for_ends(self, number: int, seconds: float) -> None:
        for _ in range(number):
            assert self.ended.acquire(timeout=seconds), self.ends


def test_everyone_hears_everyone_in_order():
    world = World(3)
    facts = [{"host": host, "text": "ä" * 1000 * host} for host in range(3)]
    for topic in ("a#1", "a#2", "b#1"):
        heard = _all(lambda h, t=topic: world.channels[h].gather(t, facts[h], 20.0), range(3))
        assert heard == [facts] * 3
    assert _all(lambda host: world.channels[host].over(), range(3)) == [True] * 3
    assert not world.ends


def test_one_that_says_nothing_is_named():
    world = World(3)
    heard = _all(lambda host: world.channels[host].gather("plan#1", host, 0.5), [0, 1])
    assert isinstance(heard[0], UnfinishedError)
    assert "host 2 (node-2) about plan" in str(heard[0])


def test_a_closed_connection_ends_all_others_at_once():
    world = World(3)
    world.links[1][0].close()  # host 1's only link: as if it was killed
    world.wait_for_ends(3, 5.0)
    for host in (0, 2):
        code, message = world.ends[host]
        assert code == 75
        assert "host 1 (node-1) is lost" in message


def test_silence_counts_as_loss():
    names, links = zip(
        *_all(lambda one: connect_hosts(one, "x", 20.0), _placements(2)), strict=True
    )
    ends: list[tuple[int, str]] = []
    begun = time.monotonic()
    done = threading.Event()
    # Host 1 has no channel: its connection stays open, but nothing is sent.
    HostChannel(0, names[0], links[0], 1.0, lambda *end: (ends.append(end), done.set()))
    assert done.wait(10.0)
    assert 1.0 <= time.monotonic() - begun < 6.0
    assert ends[0][0] == 75
    assert "no heartbeat for 1 s" in ends[0][1]


def test_beats_keep_hosts_together_through_long_silence():
    world = World(2, heartbeat_seconds=1.0)
    time.sleep(3.0)
    assert not world.ends


def test_a_failure_reaches_those_that_go_on():
    world = World(3)
    assert not world.channels[2].over(79, "another dataset")
    world.wait_for_ends(2, 5.0)
    assert set(world.ends) == {0, 1}
    assert world.ends[1] == (79, "host 2 (node-2) failed: another dataset")


def test_failing_alike_is_no_failure_of_one():
    world = World(2)
    assert _all(lambda host: world.channels[host].over(75, "stopped"), [0, 1]) == [True, True]
    assert not world.ends


def test_a_missing_host_is_named_at_both_ends():
    first, second, _ = _placements(3)
    errors = _all(lambda one: connect_hosts(one, f"node-{one.host_id}", 2.0), [first, second])
    for error in errors:
        assert isinstance(error, UnfinishedError)
        assert "host 2 of 3 did not connect" in str(error)


def test_no_first_host():
    (_, second) = _placements(2)
    with pytest.raises(UnfinishedError, match=f"no answer from host 0 at {second.coordinator}"):
        connect_hosts(second, "node-1", 1.0)


def test_two_with_one_number_and_counts_that_differ():
    first, second, _ = _placements(3)
    errors = _all(
        lambda one: connect_hosts(one, f"node-{one.host_id}", 20.0), [first, second, second]
    )
    for error in errors:
        assert isinstance(error, ConfigError)
        assert "are both host 1" in str(error)
    other = HostPlacement(coordinator=first.coordinator, num_hosts=2, host_id=1, launcher="test")
    errors = _all(lambda one: connect_hosts(one, f"node-{one.host_id}", 20.0), [first, other])
    assert all("told of 3 hosts" in str(error) for error in errors)


def test_strangers_are_ignored():
    first, second = _placements(2)
    address = ("127.0.0.1", int(first.coordinator.partition(":")[2]))

    def scan(_):
        for _ in range(100):
            try:
                with socket.create_connection(address) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return []
            except OSError:
                time.sleep(0.02)
        raise AssertionError("nobody listened")

    def after_the_scan(one):
        time.sleep(0.5 * one.host_id)
        return connect_hosts(one, f"node-{one.host_id}", 20.0)

    results = _all(
        lambda one: scan(one) if one is None else after_the_scan(one), [None, first, second]
    )
    assert results[1][0] == results[2][0] == ["node-0", "node-1"]
