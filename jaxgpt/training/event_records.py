"""Records of TensorBoard's event files: scalars as protocol buffers, each with its checksums.

Written out here because the libraries that write them import PyTorch where it is installed, which
takes longer than everything else that a run does before its first step.

A record is its length, the checksum of that, an `Event`, and the checksum of that (little endian;
CRC-32C, rotated and shifted as TFRecord has it). Fields of the messages, by number, as in
tensorflow/core/util/event.proto and framework/summary.proto:

    Event       1 wall_time double, 2 step int64, 3 file_version string, 5 Summary, 7 SessionLog
    Summary     1 repeated Value;  Value: 1 tag string, 2 simple_value float
    SessionLog  1 status, of which 1 is START
"""

import struct
from collections.abc import Mapping

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
    """The first event of every file."""
    return _event(wall_time) + _bytes(3, b"brain.Event:2")


def start_event(wall_time: float, step: int) -> bytes:
    """What earlier files say of this step and later ones no longer holds."""
    return _event(wall_time, step) + _bytes(7, _key(1, _VARINT) + _varint(1))


def scalars_event(wall_time: float, step: int, values: Mapping[str, float]) -> bytes:
    """Numbers by their tags."""
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
    """Seven bits a byte, lowest first; the eighth says that more follow."""
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
