"""Figures for TensorBoard, written by the thread that has them.

tensorboardX's `SummaryWriter` has a thread and a queue of ten: on a full disk the thread ends, the
queue fills, and whoever adds to it waits for ever. Here a write that fails is the last one.
"""

import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 120.0


class TensorBoardFile:
    """Appends scalars to a new event file.

    Args:
        folder: where; made if need be.
        first_step: TensorBoard hides what earlier files have from this step on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # Slow to import, and not needed by whoever logs without TensorBoard.
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._file: Any = RecordWriter(str(folder / name))
        self._flushed = time.monotonic()
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Append values of a step, as `group/NAME`; nothing if there are none."""
        if not values:
            return
        entries = [
            self._summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        summary = self._summary(value=entries)
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._try(lambda: self._file.close())

    def _write(self, event: Any) -> None:
        now = time.monotonic()
        self._try(lambda: self._file.write(event.SerializeToString()))
        if now - self._flushed > _FLUSH_SECONDS:
            self._flushed = now
            self._try(lambda: self._file.flush())

    def _try(self, act: Any) -> None:
        if self._file is None:
            return
        try:
            act()
        except OSError as error:
            self._file = None  # Half a record may be written: nothing can follow it.
            logger.warning("no more figures for TensorBoard: %s", error.strerror)
