"""Scalars for TensorBoard, written at once by the calling thread.

tensorboardX's `SummaryWriter` has a buffer that a kill loses, and a thread with a queue of ten: on
a full disk the thread ends, the queue fills, and a call that adds to it never returns.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from jaxgpt.storage.durable import RecordFile

_POLYNOMIAL = 0x82F63B78


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def record(event: bytes) -> bytes:
    """Frame an event."""
    length = struct.pack("<Q", len(event))
    return length + _checksum(length) + event + _checksum(event)


def version_event(wall_time: float) -> bytes:
    """Return the first event of every file."""
    return _event(wall_time) + _bytes(3, b"brain.Event:2")


def start_event(wall_time: float, step: int) -> bytes:
    """Return the event that makes earlier files' values invalid from this step on."""
    return _event(wall_time, step) + _bytes(7, _key(1, _VARINT) + _varint(1))


def scalars_event(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return an event with values by tag."""
    entries = (
        _bytes(1, _bytes(1, tag.encode()) + _key(2, _FIXED32) + _float32(value))
        for tag, value in values.items()
    )
    return _event(wall_time, step) + _bytes(5, b"".join(entries))


def _event(wall_time: float, step: int | None = None) -> bytes:
    encoded = _key(1, _FIXED64) + struct.pack("<d", wall_time)
    return encoded if step is None else encoded + _key(2, _VARINT) + _varint(step)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(content)) + content


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(number: int) -> bytes:
    """Encode an integer, seven bits per byte, lowest first; the eighth bit means more follow."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    masked = (crc >> 15 | crc << 17) + 0xA282EAD8
    return struct.pack("<I", masked & 0xFFFFFFFF)


class TensorBoardFile:
    """Appends scalars to a new event file.

    Args:
        folder: of the file; made if it does not exist.
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
        """Write the remaining records and close the file."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        self._file.append(record(event))
