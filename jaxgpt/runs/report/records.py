"""Content of a run folder as plain values; a missing file is named, and is no error. The model is
not opened, so a report can be written anywhere and at any moment of a run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt.data.manifest import MANIFEST
from jaxgpt.storage.durable import write_json
from jaxgpt.training.goodput import FILE_NAME
from jaxgpt.training.metrics import read_evaluations, read_records

_BASELINE = "baseline.json"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run's files, read.

    Attributes:
        directory: the folder.
        config: the train config as nested dicts; empty if missing, like all below.
        lineage: lineage.json.
        environment: env.json.
        steps: records of training steps, in order.
        evaluations: {"step": ..., figures...} of each evaluation, in order.
        events: events.jsonl, in order.
        goodput: seconds by purpose, of all processes of the run; empty if not recorded.
        manifests: of the datasets, by the path that the config gives.
        baseline: bits per byte of the n-gram model on its held-out text; None if not measured.
        missing: sentences that name the files that could not be read.
    """

    directory: Path
    config: Mapping[str, Any]
    lineage: Mapping[str, Any]
    environment: Mapping[str, Any]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    manifests: Mapping[str, Mapping[str, Any]]
    goodput: Mapping[str, float] = field(default_factory=dict)
    baseline: float | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def samples(self) -> dict[int, list[dict[str, Any]]]:
        """Return the samples that the model wrote during training, by step."""
        found: dict[int, list[dict[str, Any]]] = {}
        for event in self.events:
            if event.get("event") == "sample":
                found.setdefault(event["step"], []).append(event)
        return found

    def config_at(self, *path: str) -> Any:
        """Return the config's value at a path of names, or None."""
        value: Any = self.config
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def read_run_folder(directory: str | Path) -> RunFolder:
    """Read the files of a run folder that exist."""
    directory = Path(directory)
    missing: list[str] = []
    documents = {
        name: _read_json(directory / f"{name}.json", missing)
        for name in ("config", "lineage", "env")
    }
    config = documents["config"].get("config", {})
    records = read_records(directory / "metrics.jsonl")
    if not records:
        missing.append("metrics.jsonl: no step is recorded yet")
    return RunFolder(
        directory=directory,
        config=config,
        lineage=documents["lineage"],
        environment=documents["env"],
        steps=[record for record in records if "loss" in record],
        evaluations=read_evaluations(directory),
        events=read_records(directory / "events.jsonl"),
        manifests=_read_manifests(config, documents["lineage"], missing),
        missing=missing,
        baseline=_read_baseline(directory, documents["lineage"]),
        goodput=_read_json(directory / FILE_NAME, []).get("seconds", {}),
    )


def write_baseline(directory: Path, dataset: str, ngram_bits_per_byte: float) -> None:
    """Store the n-gram model's score on the dataset of this fingerprint, for later reports."""
    record = {"version": 1, "dataset": dataset, "ngram_bits_per_byte": ngram_bits_per_byte}
    write_json(directory / _BASELINE, record)


def _read_baseline(directory: Path, lineage: Mapping[str, Any]) -> float | None:
    """Read the n-gram model's score, if it belongs to the run's present dataset."""
    record = _read_json(directory / _BASELINE, [])
    datasets = lineage.get("data", {}).get("datasets", ())
    if record.get("dataset") in [dataset.get("fingerprint") for dataset in datasets[:1]]:
        return record.get("ngram_bits_per_byte")
    return None


def _read_json(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        missing.append(f"{path.name}: not a JSON object")
    except FileNotFoundError:
        missing.append(f"{path.name}: not in the folder")
    except (OSError, ValueError) as error:
        missing.append(f"{path.name}: {' '.join(str(error).split())}")
    return {}


def _read_manifests(
    config: Mapping[str, Any], lineage: Mapping[str, Any], missing: list[str]
) -> dict[str, dict[str, Any]]:
    """Read the manifests of the datasets that the config names, if they are still the same."""
    known = {dataset.get("fingerprint") for dataset in lineage.get("data", {}).get("datasets", ())}
    manifests = {}
    for dataset in config.get("data", {}).get("datasets", ()):
        path = dataset["path"]
        problems: list[str] = []
        manifest = _read_json(Path(path) / MANIFEST, problems)
        if problems:
            missing.append(f"dataset {path}: {problems[0]}")
        elif known and manifest.get("fingerprint") not in known:
            missing.append(f"dataset {path}: the folder holds another dataset by now")
        else:
            manifests[path] = manifest
    return manifests
