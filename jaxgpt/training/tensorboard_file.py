"""Figures for TensorBoard, written by the thread that has them, each record at once.

tensorboardX's `SummaryWriter` has a buffer that a kill loses, and a thread with a queue of ten: on
a full disk the thread ends, the queue fills, and a call that adds to it never returns.
"""

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from jaxgpt.durable import RecordFile
from jaxgpt.training.event_records import record, scalars_event, start_event, version_event


class TensorBoardFile:
    """Appends scalars to a new event file.

    Args:
        folder: where; made if need be.
        first_step: TensorBoard hides what earlier files have from this step on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._file = RecordFile(folder / name)
        self._write(version_event(time.time()))
        self._write(start_event(time.time(), first_step))

    def add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Append values of a step, as `group/NAME`; nothing if there are none."""
        if values:
            tagged = {f"{group}/{name}": value for name, value in values.items()}
            self._write(scalars_event(time.time(), step, tagged))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        self._file.append(record(event))
