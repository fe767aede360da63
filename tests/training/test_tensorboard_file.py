"""Records of event files: what TensorBoard's own reader makes of them."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from jaxgpt.training.tensorboard_file import record, scalars_event, start_event, version_event

STEPS = st.integers(0, 2**62)
TIMES = st.floats(0, 1e12)


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.binary(max_size=400))
def test_a_record_has_its_length_and_checksums(content: bytes) -> None:
    framed = record(content)
    length, of_length = struct.unpack("<QI", framed[:12])
    assert (length, of_length) == (len(content), _masked(framed[:8]))
    assert framed[12:-4] == content
    assert struct.unpack("<I", framed[-4:]) == (_masked(content),)


@given(TIMES, STEPS, st.dictionaries(st.text(max_size=200), st.floats(width=32, allow_nan=False)))
def test_scalars_are_read_as_written(time: float, step: int, values: dict[str, float]) -> None:
    event = Event.FromString(scalars_event(time, step, values))
    assert (event.wall_time, event.step) == (time, step)
    assert {value.tag: value.simple_value for value in event.summary.value} == values


def test_a_number_beyond_float32_is_infinite() -> None:
    (value,) = Event.FromString(scalars_event(0.0, 0, {"norm": -1e300})).summary.value
    assert value.simple_value == -float("inf")


@given(TIMES, STEPS)
def test_the_first_events_are_as_tensorboard_wants_them(time: float, step: int) -> None:
    assert Event.FromString(version_event(time)).file_version == "brain.Event:2"
    start = Event.FromString(start_event(time, step))
    assert (start.wall_time, start.step, start.session_log.status) == (time, step, 1)
