"""Background save: arrays, hashes, one rename; in a thread, on every host alike.

Each host hashes the files that it wrote, makes them durable and reads them back; the first host
puts all hashes into the manifest and gives the folder its name.
"""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.housekeeping import CheckpointEvent, Housekeeping
from jaxgpt.checkpoints.integrity import FileHash, hash_written, list_files, write_manifest
from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles, writer_of
from jaxgpt.checkpoints.save_barrier import SaveBarrier
from jaxgpt.checkpoints.step_content import METADATA_FILE
from jaxgpt.checkpoints.stored_steps import describe_failure
from jaxgpt.storage.durable import write_json

_HASHES = ".hashes-"


class EndedSave(NamedTuple):
    """The end of a save at this host.

    Attributes:
        step: which.
        error: why it failed, if it did.
        events: what went wrong besides, after the step was committed.
    """

    step: int
    error: BaseException | None
    events: tuple[CheckpointEvent, ...] = ()


class Saver:
    """Saves one step at a time into a directory: `prepare`, `begin`, then `go_on` or `give_up`. All
    hosts make these calls together and meet at barriers in the thread: a failure on one host is a
    failure on all.

    Args:
        directory: of the checkpoints.
        files: writes the arrays, and meets the other hosts by `barrier` as well.
        barrier: of the hosts.
        housekeeping: runs in the thread, on the first host, when a step has got its name.
    """

    def __init__(
        self,
        directory: Path,
        files: OrbaxFiles,
        barrier: SaveBarrier,
        housekeeping: Housekeeping,
    ) -> None:
        self._directory = directory
        self._files = files
        self._barrier = barrier
        self._housekeeping = housekeeping
        self._has_begun = False
        self._pending: tuple[int, Future[None], list[CheckpointEvent]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jaxgpt-checkpoint")

    def prepare(self, step: int) -> None:
        """Make room for a step; `settle` comes before."""
        self._barrier.begin()
        self._discard(step)

    def begin(self, step: int, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin to write arrays, by name, by item; returns once they may be overwritten."""
        self._files.start(step_folders.staging_folder(self._directory, step), items)
        self._has_begun = True

    def go_on(self, step: int, document: Mapping[str, Any]) -> None:
        """Do the rest in the thread; `document` is the content of `metadata.json`."""
        self._has_begun = False
        events: list[CheckpointEvent] = []
        future = self._thread.submit(self._finish, step, document, events)
        self._pending = step, future, events

    def give_up(self, step: int) -> None:
        """Delete the written files; those that cannot be deleted are left to `prepare`."""
        if self._has_begun:
            self._has_begun = False
            with suppress(Exception):
                self._files.finish()
        self._barrier.fail("the save did not begin on all hosts")
        with suppress(OSError):
            self._discard(step)

    def settle(self) -> EndedSave | None:
        """Wait for the save under way, if any; return how it ended."""
        if self._pending is None:
            return None
        (step, future, events), self._pending = self._pending, None
        wait_for([future])
        return EndedSave(step, future.exception(), tuple(events))

    def close(self) -> None:
        """End the threads, after `settle`."""
        self._thread.shutdown(wait=True)
        self._files.close()

    def _finish(
        self, step: int, document: Mapping[str, Any], events: list[CheckpointEvent]
    ) -> None:
        try:
            self._files.finish()
            own = self._hash_own(step, document)
            self._barrier.wait()
            if jax.process_index() == 0:
                self._commit(step, own)
                events += self._housekeeping.run(step)
            self._barrier.wait()
        except Exception as error:
            self._barrier.fail(describe_failure(error))
            with suppress(OSError):  # Another host may still be writing there; `prepare` is next.
                self._discard(step)
            raise

    def _hash_own(self, step: int, document: Mapping[str, Any]) -> dict[str, FileHash]:
        """Hash the files that this host has written; pass the hashes to the first host."""
        staging = step_folders.staging_folder(self._directory, step)
        index, count = jax.process_index(), jax.process_count()
        if index == 0:
            write_json(staging / METADATA_FILE, document)
        # Nor, of another host, the file that is about to be renamed to this.
        paths = [path for path in list_files(staging) if _HASHES not in path]
        own = hash_written(staging, [path for path in paths if writer_of(path) % count == index])
        if index > 0:
            entries = {path: asdict(entry) for path, entry in own.items()}
            write_json(staging / f"{_HASHES}{index}", entries)
        return own

    def _commit(self, step: int, hashes: dict[str, FileHash]) -> None:
        staging = step_folders.staging_folder(self._directory, step)
        for index in range(1, jax.process_count()):
            part = staging / f"{_HASHES}{index}"
            entries = json.loads(part.read_text("utf-8"))
            hashes |= {path: FileHash(**entry) for path, entry in entries.items()}
            part.unlink()
        if unlike := hashes.keys() ^ set(list_files(staging)):
            raise OSError(f"hosts see different files in {staging}: {', '.join(sorted(unlike))}")
        write_manifest(staging, hashes)
        step_folders.commit(self._directory, step)

    def _discard(self, step: int) -> None:
        if jax.process_index() == 0:
            step_folders.discard_staging(self._directory, step)
