"""Connection between two hosts over which both send messages: JSON objects, one per line. Messages
are small: facts, heartbeats, ends. Arrays travel by XLA's own means.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
# A line beyond this is not ours: whatever connected speaks something else.
_MAX_LINE_BYTES = 64 << 20


class Link:
    """One end of a connection.

    Attributes:
        last_heard: `time.monotonic()` of the newest message.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._file = connection.makefile("rb")
        self._sending = threading.Lock()
        self.last_heard = time.monotonic()

    def send(self, message: Message) -> bool:
        """Send one message and return whether it was taken; wait while the other end is full."""
        with self._sending:
            return self._send(message)

    def send_if_free(self, message: Message) -> bool:
        """Send one message as `send` does, but drop it if it would have to wait for another one."""
        if not self._sending.acquire(blocking=False):
            return True
        try:
            return self._send(message)
        finally:
            self._sending.release()

    def receive(self, timeout_seconds: float | None = None) -> Message | None:
        """Return the next message; None at the end, after a timeout, or for another protocol."""
        try:
            self._socket.settimeout(timeout_seconds)
            message = json.loads(self._file.readline(_MAX_LINE_BYTES))
            self._socket.settimeout(None)
        except (OSError, ValueError):
            return None
        self.last_heard = time.monotonic()
        return message if isinstance(message, dict) else None

    def listen(self, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> None:
        """Receive in a thread of its own until the connection ends."""

        def run() -> None:
            while (message := self.receive()) is not None:
                on_message(message)
            on_closed()

        threading.Thread(target=run, name="jaxgpt-host-link", daemon=True).start()

    def close(self) -> None:
        """End the connection; the other side sees its end."""
        with contextlib.suppress(OSError):  # It may have ended already.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send(self, message: Message) -> bool:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False
