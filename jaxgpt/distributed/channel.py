"""Messages between the hosts of a run: facts, heartbeats, and the end. Arrays travel elsewhere.

The connections form a star around host 0. Every host sends a heartbeat each second. A host whose
connection closes, or that is silent for `heartbeat_seconds`, is lost: all others name it and end
with exit code 75, even while their main threads wait in a collective that will never finish.

    {"kind": "beat"}                            I am alive
    {"kind": "value", "topic", "value"}         to host 0: my part of a gathering
    {"kind": "values", "topic", "values"}       from host 0: everyone's
    {"kind": "over", "code", "message"}         to host 0: my work is over; 0 is success
    {"kind": "abandon", "code", "message"}      to host 0: end everyone
    {"kind": "done"}                            from host 0: everyone's is
    {"kind": "end", "code", "message"}          from host 0: exit at once
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxgpt.distributed.links import Link, Message
from jaxgpt.distributed.rendezvous import describe_hosts
from jaxgpt.errors import UnfinishedError

_BEAT_SECONDS = 1.0
# After one host has failed the others may be about to fail likewise, and to say so themselves.
_GRACE_SECONDS = 5.0


class HostChannel:
    """The connections of one host; its threads run until the process ends.

    Args:
        host: this one's number.
        names: of all hosts.
        links: as `connect_hosts` returns them.
        heartbeat_seconds: silence after which a host counts as lost.
        end: leaves the process with (exit code, message); replaced in tests.
    """

    def __init__(
        self,
        host: int,
        names: Sequence[str],
        links: Mapping[int, Link],
        heartbeat_seconds: float,
        end: Callable[[int, str], None] | None = None,
    ) -> None:
        self.host = host
        self.names = list(names)
        self._links = dict(links)
        self._heartbeat_seconds = heartbeat_seconds
        self._end_process = end or end_process
        self._changed = threading.Condition()
        self._parts: dict[str, dict[int, Any]] = {}
        self._answers: dict[str, list[Any]] = {}
        self._over: dict[int, tuple[int, str]] = {}
        self._first_failure = float("inf")
        self._done = self._ended = False
        for other, link in self._links.items():
            self._listen(other, link)
        threading.Thread(target=self._watch, name="jaxgpt-host-watch", daemon=True).start()

    def gather(self, topic: str, value: Any, timeout_seconds: float) -> list[Any]:
        """Return every host's `value` (JSON) in order; all hosts call this with the same topic.

        Args:
            topic: names the occasion, once in a run.
            value: this host's part.
            timeout_seconds: for all parts to come.

        Raises:
            UnfinishedError: a host did not answer in time; it is named.
        """
        self._send_first({"kind": "value", "topic": topic, "value": value})
        with self._changed:
            arrived = self._changed.wait_for(lambda: topic in self._answers, timeout_seconds)
            if not arrived:
                here = self._parts.get(topic, {})
                missing = [host for host in range(len(self.names)) if host not in here]
                who = describe_hosts(missing if self.host == 0 else [0], self.names)
                raise UnfinishedError(
                    f"no message from {who} about {topic.partition('#')[0]} for "
                    f"{timeout_seconds:g} s; see that host's log, and start all hosts again"
                )
            return self._answers.pop(topic)

    def over(self, code: int = 0, message: str = "") -> bool:
        """Announce the end of this host's work, and wait until all hosts have ended theirs.

        Returns:
            Whether all hosts ended by themselves; False: at least one did not answer.
        """
        with self._changed:
            self._over[self.host] = (code, message)
        self._send_first({"kind": "over", "code": code, "message": message})
        with self._changed:
            self._changed.wait_for(lambda: self._done or self._ended)
            return self._done

    def abandon(self, code: int, message: str) -> None:
        """End this process and all others at once; may be called from any thread."""
        if self.host == 0:
            self._end_all(code, message)
            return
        # Host 0 ends the others when it hears of it, or when the connection closes.
        self._links[0].send_if_free({"kind": "abandon", "code": code, "message": message})
        self._end(code, message)

    def close(self) -> None:
        """Close the connections, once the work of all is over."""
        for link in self._links.values():
            link.close()

    def _listen(self, other: int, link: Link) -> None:
        link.listen(
            lambda message: self._receive(other, message),
            lambda: self._lose(other, "its connection closed"),
        )

    def _send_first(self, message: Message) -> None:
        """Send to host 0, which may be this one."""
        if self.host == 0:
            self._receive(0, message)
        else:
            self._links[0].send(message)

    def _send_all(self, message: Message) -> None:
        for link in self._links.values():
            link.send_if_free(message) if message["kind"] == "beat" else link.send(message)

    def _receive(self, sender: int, message: Message) -> None:
        kind = message["kind"]
        if kind == "value":
            self._add_part(sender, message["topic"], message["value"])
        elif kind == "over":
            self._add_over(sender, message["code"], message["message"])
        elif kind == "values":
            with self._changed:
                self._answers[message["topic"]] = message["values"]
                self._changed.notify_all()
        elif kind == "done":
            with self._changed:
                self._done = True
                self._changed.notify_all()
        elif kind == "abandon":
            where = describe_hosts([sender], self.names)
            self._end_all(message["code"], f"{where} gave up: {message['message']}")
        elif kind == "end":
            self._end(message["code"], message["message"])

    def _add_part(self, sender: int, topic: str, value: Any) -> None:
        with self._changed:
            parts = self._parts.setdefault(topic, {})
            parts[sender] = value
            if len(parts) < len(self.names):
                return
            values = [parts[host] for host in range(len(self.names))]
            del self._parts[topic]
        self._send_all({"kind": "values", "topic": topic, "values": values})
        with self._changed:
            self._answers[topic] = values
            self._changed.notify_all()

    def _add_over(self, sender: int, code: int, message: str) -> None:
        with self._changed:
            self._over[sender] = (code, message)
            if code != 0:
                self._first_failure = min(self._first_failure, time.monotonic())
            if len(self._over) < len(self.names):
                return
        self._send_all({"kind": "done"})
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def _watch(self) -> None:
        while not (self._done or self._ended):
            time.sleep(min(_BEAT_SECONDS, self._heartbeat_seconds / 5))
            self._send_all({"kind": "beat"})
            now = time.monotonic()
            for other, link in self._links.items():
                if now - link.last_heard > self._heartbeat_seconds:
                    self._lose(other, f"no heartbeat for {self._heartbeat_seconds:g} s")
            if now - self._first_failure > _GRACE_SECONDS:
                self._pass_on_failure()

    def _pass_on_failure(self) -> None:
        """End the other hosts with the code and message of one that has failed."""
        host, (code, message) = next(item for item in self._over.items() if item[1][0] != 0)
        self._end_all(code, f"{describe_hosts([host], self.names)} failed: {message}")

    def _lose(self, other: int, how: str) -> None:
        with self._changed:
            if self._done or self._ended or (self.host == 0 and other in self._over):
                return
        self._end_all(
            UnfinishedError.exit_code,
            f"{describe_hosts([other], self.names)} is lost: {how}; all hosts stop. Start all of "
            "them again to go on from the last checkpoint",
        )

    def _end_all(self, code: int, message: str) -> None:
        with self._changed:
            if self._ended:
                return
        if self.host == 0:
            self._send_all({"kind": "end", "code": code, "message": message})
        self._end(code, message)

    def _end(self, code: int, message: str) -> None:
        """End this process, unless it has failed itself and is about to report that."""
        with self._changed:
            if self._ended or self._done:
                return
            self._ended = True
            self._changed.notify_all()
            own_code, _ = self._over.get(self.host, (0, ""))
        if own_code == 0:
            self._end_process(code, message)


def end_process(code: int, message: str) -> None:
    """Print an error and leave the process from any thread."""
    # Not sys.exit: the main thread may wait for a host that will never answer.
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(code)
