"""One writer per URL, as far as an object store allows: an object that its writer renews.

    writer.json     {"writer", "host", "process", "beat", "held"}

A writer raises `beat` every RENEW_SECONDS. A newcomer watches it for LEASE_SECONDS: if it rises,
the writer lives, and the newcomer is refused; if not, the newcomer takes over. No clocks are
compared. A writer that was stopped for longer, and wakes up, sees that it was replaced before it
writes a step again. It checks and then writes, because a store cannot do both at once: a process
that is stopped just between the two can still write objects of one step.
"""

import json
import logging
import os
import socket
import threading
import time
from typing import Any

from jaxgpt.errors import UnfinishedError, UsageError
from jaxgpt.storage.remote_folder import RemoteFolder, StoreError

logger = logging.getLogger(__name__)

RENEW_SECONDS = 20.0
LEASE_SECONDS = 70.0
# Two that take over at once both write; who wrote last stays, and both look after this time. Far
# less than a lease: who waits for silence must not take this for one.
SETTLE_SECONDS = 2.0
FILE_NAME = "writer.json"


class ReplacedError(UnfinishedError):
    """Another process is the writer now."""


class Lease:
    """The right to write to a folder; taken by `take`, given back by `release`.

    Args:
        folder: to be written.
        writer: names the local folder that the run is written from, for good: a second process
            there, which only starts when the first has ended, need not wait.
    """

    def __init__(self, folder: RemoteFolder, writer: str) -> None:
        self._folder = folder
        self._writer = writer
        self._beat = 0
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Become the writer, after waiting if another one may be alive.

        Returns:
            Whether the last one wrote from the same local folder.

        Raises:
            UsageError: somebody else is writing.
        """
        last = self._read()
        if last is None and not self._folder.create(FILE_NAME, self._content(held=True)):
            last = self._read()
        if last is not None and last["writer"] != self._writer:
            if last["held"]:
                self._wait_for_silence(last)
            self._write(held=True)
            time.sleep(SETTLE_SECONDS)
            self._refuse_unless_ours()
        elif last is not None:
            self._beat = last["beat"] + 1
            self._write(held=True)
        self._thread = threading.Thread(target=self._renew, name="jaxgpt-lease", daemon=True)
        self._thread.start()
        return last is not None and last["writer"] == self._writer

    def require(self) -> None:
        """Look whether this is still the writer.

        Raises:
            ReplacedError: another one has taken over.
            StoreError: the store does not answer.
        """
        now = self._read()
        if now is None or now["writer"] != self._writer:
            who = "nobody" if now is None else _describe(now)
            raise ReplacedError(
                f"{self._folder.url} is now written by {who}, since this process sent no "
                "heartbeat for too long; it writes nothing more there"
            )

    def release(self) -> None:
        """Let the next writer begin at once, wherever it is."""
        self._released.set()
        if self._thread is not None:
            self._thread.join()
            self.require()
            self._write(held=False)

    def _wait_for_silence(self, last: dict[str, Any]) -> None:
        time.sleep(LEASE_SECONDS)
        now = self._read()
        if now is not None and now["held"] and now != last:
            raise _in_use(self._folder, now)

    def _refuse_unless_ours(self) -> None:
        now = self._read()
        if now is None or now["writer"] != self._writer:
            raise _in_use(self._folder, now)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            try:
                self.require()
                self._beat += 1
                self._write(held=True)
            except (StoreError, OSError) as error:
                # If for long, another may take over, and `require` will tell.
                logger.warning("cannot renew the lease to write %s: %s", self._folder.url, error)
            except ReplacedError:
                return

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._folder.read(FILE_NAME))
        except FileNotFoundError:
            return None
        except ValueError:  # Of a store that does not write objects whole: not renewed, so free.
            return {"writer": "", "host": "unknown", "process": 0, "beat": 0, "held": False}

    def _write(self, held: bool) -> None:
        self._folder.write(FILE_NAME, self._content(held))

    def _content(self, held: bool) -> bytes:
        values = {
            "writer": self._writer,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "beat": self._beat,
            "held": held,
        }
        return (json.dumps(values) + "\n").encode()


def _describe(lease: dict[str, Any]) -> str:
    return f"host {lease['host']}, process {lease['process']}"


def _in_use(folder: RemoteFolder, lease: dict[str, Any] | None) -> UsageError:
    who = "another process" if lease is None else _describe(lease)
    return UsageError(
        f"{folder.url} is being written by {who}; wait for it or choose another folder"
    )
