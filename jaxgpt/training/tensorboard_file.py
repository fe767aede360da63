"""Figures for TensorBoard, written by the thread that has them.

tensorboardX's `SummaryWriter` has a thread and a queue of ten: on a full disk the thread ends, the
queue fills, and whoever adds to it waits for ever. Here a write that fails is the last one.
"""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from jaxgpt.training.event_records import record, scalars_event, start_event, version_event

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 120.0


class TensorBoardFile:
    """Appends scalars to a new event file.

    Args:
        folder: where; made if need be.
        first_step: TensorBoard hides what earlier files have from this step on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._file: BinaryIO | None = (folder / name).open("wb")
        self._flushed = time.monotonic()
        self._write(version_event(time.time()))
        self._write(start_event(time.time(), first_step))

    def add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Append values of a step, as `group/NAME`; nothing if there are none."""
        if values:
            tagged = {f"{group}/{name}": value for name, value in values.items()}
            self._write(scalars_event(time.time(), step, tagged))

    def close(self) -> None:
        """Write what is left."""
        self._try(lambda file: file.close())

    def _write(self, event: bytes) -> None:
        now = time.monotonic()
        self._try(lambda file: file.write(record(event)))
        if now - self._flushed > _FLUSH_SECONDS:
            self._flushed = now
            self._try(lambda file: file.flush())

    def _try(self, act: Callable[[BinaryIO], object]) -> None:
        if self._file is None:
            return
        try:
            act(self._file)
        except OSError as error:
            self._file = None  # Half a record may be written: nothing can follow it.
            logger.warning("no more figures for TensorBoard: %s", error.strerror)
