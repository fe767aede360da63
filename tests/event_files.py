"""TensorBoard's event files, read as TensorBoard reads them."""

import json
import struct
from pathlib import Path

import numpy as np
from tensorboardX.proto.event_pb2 import Event


def events_in(path: Path) -> list[Event]:
    """Return the events of a file."""
    data, events = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def shown_figures(run_dir: Path) -> dict[tuple[str, int], float]:
    """Return {(tag, step): value} of a run: a new process hides what came before from its step."""
    shown: dict[tuple[str, int], float] = {}
    for path in sorted((run_dir / "tensorboard").iterdir()):
        for event in events_in(path):
            if event.session_log.status == 1:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                key = (value.tag, event.step)
                assert key not in shown, f"{key} stands twice"
                shown[key] = value.simple_value
    return shown


def recorded_figures(run_dir: Path) -> dict[tuple[str, int], float]:
    """Return the same from metrics.jsonl."""
    recorded = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        groups = {
            "train": record if "loss" in record else {},
            "routing": record.get("routing") or {},
            "eval": record.get("eval", {}),
        }
        for group, values in groups.items():
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    recorded[f"{group}/{name}", record["step"]] = float(np.float32(value))
    return recorded
