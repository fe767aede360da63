"""Metrics of a run: `metrics.jsonl` first, then TensorBoard and the terminal.

Lines are appended and flushed one at a time; after a crash, lines past the restored step are
dropped so that no step stands twice. Events of a process, such as a hang, stay.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.reports.console import ProgressLine
from jaxgpt.storage.durable import RecordFile, write_atomically
from jaxgpt.training.tensorboard_file import TensorBoardFile

# These events are of steps: who does the steps again writes them again.
_OF_STEPS = ("skip", "sample", "save", "diverged", "rollback", "finished")


@configclass
class LoggingConfig:
    """Reports of a run: interval and places."""

    every_steps: int = 10
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard event files as well."""
    progress_seconds: float = 10.0
    """Seconds between progress lines where there is no terminal."""

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(f"every_steps={self.every_steps} must be at least 1")


class MetricsLog:
    """Appends records to a run folder.

    Args:
        run_dir: an existing folder; None at a host that leaves writing to another.
        last_step: records of later steps, left by a run that was killed, are dropped, but not
            events of a process or a checkpoint rather than of a step.
        tensorboard: also write event files below `run_dir/tensorboard`.

    Attributes:
        evaluations: {"step", figures...} of those of this process and before, in order; empty
            without a folder.
    """

    def __init__(self, run_dir: Path | None, last_step: int, tensorboard: bool) -> None:
        self._files: dict[str, RecordFile] = {}
        self._tensorboard: TensorBoardFile | None = None
        self.evaluations: list[dict[str, Any]] = []
        if run_dir is None:
            return
        for name in ("metrics", "events"):
            path = run_dir / f"{name}.jsonl"
            _drop_after(path, last_step)
            self._files[name] = RecordFile(path)
        self.evaluations += read_evaluations(run_dir)
        if tensorboard:
            self._tensorboard = TensorBoardFile(run_dir / "tensorboard", last_step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def train(self, record: dict[str, Any]) -> None:
        """Append one training step; `record` has `step`."""
        self._append("metrics", record)
        self._scalars("train", record["step"], record)
        for group in ("routing", "figures"):
            self._scalars(group, record["step"], record.get(group, {}))

    def evaluation(
        self, step: int, result: dict[str, float], settings: Mapping[str, Any] | None = None
    ) -> None:
        """Append one evaluation, and the settings that comparable ones share."""
        about = {} if settings is None else {"eval_settings": settings}
        self.evaluations.append({"step": step, **result, **about})
        self._append("metrics", {"step": step, "eval": result, **about})
        self._scalars("eval", step, result)

    def goodput(self, step: int, account: dict[str, float]) -> None:
        """Append the seconds of the run by purpose; see goodput.py."""
        self._append("metrics", {"step": step, "goodput": account})

    def event(self, name: str, step: int, **details: Any) -> None:
        """Append an event: start, resume, save, skip, rollback, sample, stop."""
        self._append("events", {"event": name, "step": step, **details})

    def _append(self, name: str, record: dict[str, Any]) -> None:
        if file := self._files.get(name):
            file.append(record_line(record).encode())

    def _scalars(self, group: str, step: int, record: dict[str, Any]) -> None:
        if self._tensorboard is not None:
            numbers = {
                key: value for key, value in record.items() if isinstance(value, int | float)
            }
            numbers.pop("step", None)
            self._tensorboard.add(group, step, numbers)


def record_line(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON, with the time; a number that is not finite is null."""
    stamped = {**record, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
    return json.dumps(_finite(stamped), ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, with None."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read a `.jsonl` file that a killed process may have left with half a last line."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            records.append(json.loads(line))
        except ValueError:
            # Only the line being written at the moment of a kill can be incomplete.
            continue
    return records


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Read {"step", figures..., "eval_settings"?} of each evaluation of a run, in order."""
    return [
        {name: record[name] for name in ("step", "eval_settings") if name in record}
        | record["eval"]
        for record in read_records(run_dir / "metrics.jsonl")
        if "eval" in record
    ]


def comparable_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the evaluations with a loss that were measured like the newest one. Records of older
    versions have no settings; they are compared by the number of tokens.
    """
    measured = [one for one in evaluations if one.get("loss") is not None]
    alike = "eval_settings" if measured and "eval_settings" in measured[-1] else "tokens"
    return [one for one in measured if one.get(alike) == measured[-1].get(alike)]


def _is_of_step(record: dict[str, Any]) -> bool:
    return "event" not in record or record["event"] in _OF_STEPS


def _drop_after(path: Path, last_step: int) -> None:
    if path.is_file():
        kept = [
            record
            for record in read_records(path)
            if record["step"] <= last_step or not _is_of_step(record)
        ]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        write_atomically(path, "".join(lines))


class TrainingProgress:
    """Progress of a run, for the person at the terminal.

    Args:
        num_steps: of the run.
        seconds: between plain lines.
        tokens_per_epoch: tokens of the training text; None: epochs are not shown.
        silent: show nothing, because another host does.
    """

    def __init__(
        self,
        num_steps: int,
        seconds: float,
        tokens_per_epoch: int | None = None,
        silent: bool = False,
    ) -> None:
        self._num_steps = num_steps
        self._tokens_per_epoch = tokens_per_epoch
        self._line = ProgressLine(num_steps, seconds, silent)
        self.say = self._line.say

    def show(self, step: int, record: dict[str, Any]) -> None:
        """Show the newest metrics, unless the last line is younger than the interval."""
        epoch = ""
        if self._tokens_per_epoch:
            epoch = f" epoch {record['tokens'] / self._tokens_per_epoch:.2f}"
        self._line.show(
            step,
            f"step {step}/{self._num_steps}{epoch} loss {record['loss']:.4f} "
            f"lr {record['learning_rate']:.2e} norm {record['grad_norm']:.2f} "
            f"{record['tokens_per_second']:,.0f} tokens/s",
        )
