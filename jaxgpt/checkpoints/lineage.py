"""Lineage of a run: its text, tokenizer, config and code, and the changes allowed at resume.

Plain JSON values in, plain JSON values out; this file imports no JAX, and reads no run folder.
"""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.config import ARCHITECTURE, TRAINING, select_fields, with_defaults
from jaxgpt.errors import MismatchError
from jaxgpt.names.dotted_paths import find_differences, is_list
from jaxgpt.names.type_tags import with_current_tags

LINEAGE_VERSION = 1
_NEXT_TOKEN = "jaxgpt.evaluation:NextToken"
_PACKAGES = (
    "jaxgpt",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "sentencepiece",
    "numpy",
)
_GIT_TIMEOUT_SECONDS = 10
_SHOWN = 5
_MAX_UNTRACKED = 20


def make_lineage(
    *,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    tokenizer: str,
    devices: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the lineage of a run.

    Args:
        config: the whole config, as `to_dict` gives it; its section `model` has the architecture.
        data: `TrainingBatches.fingerprint`: `datasets` that are read, and their `order`.
        tokenizer: the tokenizer's fingerprint.
        devices: devices of the run.

    Returns:
        A dict of plain JSON values: version, config, data, tokenizer, environment (packages,
        python, platform, git, devices).
    """
    return {
        "version": LINEAGE_VERSION,
        "tokenizer": tokenizer,
        "data": dict(data),
        "config": dict(config),
        "environment": {
            "packages": package_versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "git": git_state(Path(__file__).resolve().parents[2]),
            "devices": dict(devices),
        },
    }


def check_resume(
    then: Mapping[str, Any], now: Mapping[str, Any], allow_data_change: bool = False
) -> list[str]:
    """Refuse to continue a run with another tokenizer, architecture, base, adapter or dataset.

    A run keeps its tokenizer, its architecture (`config.py`), its adapter and the checkpoint that
    it began with, always, and its datasets, unless `allow_data_change`. All else may change (steps,
    devices, dropout, logging, versions), and every difference is returned for the log. After one
    that changes the numbers, such as another seed, the run continues, but no longer as it would
    have without the change.

    Args:
        then: lineage of the run so far.
        now: lineage of the run that is to continue it.
        allow_data_change: permit other datasets or shares.

    Returns:
        One line per difference, `config.seed: 1 then, 2 now`.

    Raises:
        MismatchError: one of these is another; names both sides.
    """
    if then.get("version") != LINEAGE_VERSION:
        raise MismatchError(
            f"the run's lineage.json has format {then.get('version')}; this version of jaxgpt "
            f"reads format {LINEAGE_VERSION}"
        )
    then, now = with_current_tags(then), with_current_tags(now)
    _require_equal(
        "tokenizer",
        {"tokenizer": then["tokenizer"]},
        {"tokenizer": now["tokenizer"]},
        "a run keeps its tokenizer: use a dataset built with it, or another --run-dir",
    )
    architecture_then, architecture_now = _architectures(then["config"], now["config"])
    _require_equal(
        "model",
        architecture_then,
        architecture_now,
        "a run keeps its architecture: restore these values, or use another --run-dir",
    )
    _require_base(then["config"], now["config"])
    _require_equal(
        "teacher",
        _other_models(then["config"]),
        _other_models(now["config"]),
        "a run keeps the models that its loss reads: name the same step of the same run "
        "(--objective.teacher-step), or another --run-dir",
    )
    adapter_then, adapter_now = _adapters(then["config"], now["config"])
    _require_equal(
        "adapter",
        adapter_then,
        adapter_now,
        "a run keeps its adapter: restore these values, or use another --run-dir",
    )
    if not allow_data_change:
        _require_equal(
            "dataset",
            {"datasets": then["data"].get("datasets")},
            {"datasets": now["data"].get("datasets")},
            "give the same dataset, or --allow-data-change to go on with this one",
        )
    return differences(then, now)


def objective(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that losses and gradients depend on, apart from the parameters. They are
    the text, how it is put into batches, and the minimised loss. Values that are usual under one
    objective say nothing about another.
    """
    config, data = lineage["config"], lineage["data"]
    order = {key: value for key, value in data.get("order", {}).items() if key != "seed"}
    minimised = config.get("objective") or {}
    # Runs of versions in which the objective was no value predict the next token.
    other = {}
    if minimised.get("type", _NEXT_TOKEN) != _NEXT_TOKEN:
        # Without the places of other models, which may move.
        other = {"objective": select_fields(with_defaults(minimised)[0], ARCHITECTURE)}
    return {
        **other,
        "datasets": data.get("datasets"),
        "order": order,
        "loss": select_fields(with_defaults(config.get("loss"))[0], ARCHITECTURE),
        "model": select_fields(with_defaults(config.get("model"))[0], TRAINING),
    }


def differences(then: Any, now: Any) -> list[str]:
    """Return one line for every value that two JSON values do not share, by its dotted path."""
    lines = []
    for name, before, after in find_differences(then, now, absent=_ABSENT):
        if is_list(before) and is_list(after):
            lines.append(f"{name}: {len(before)} items then, {len(after)} now")
        else:
            lines.append(f"{name}: {before!r} then, {after!r} now")
    return lines


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return {commit, dirty, untracked} of the git checkout at `folder`; None if it is none.

    `dirty` says that the commit alone does not give the code: tracked files differ from it, or
    there are Python files that it does not have, which are `untracked` (the first of them).
    """
    root = _git(folder, "rev-parse", "--show-toplevel")
    if root is None or Path(root) != folder:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    untracked = _untracked_code(folder)
    return {
        "commit": commit,
        "dirty": bool(changes or untracked),
        "untracked": untracked[:_MAX_UNTRACKED],
    }


def _untracked_code(folder: Path) -> list[str]:
    """Return the Python files of a checkout that git does not have, ignored ones of jaxgpt too."""
    of_anyone = _git(folder, "ls-files", "--others", "--exclude-standard", "--", "*.py")
    of_package = _git(folder, "ls-files", "--others", "--", "jaxgpt/*.py")
    return sorted({*(of_anyone or "").splitlines(), *(of_package or "").splitlines()})


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _require_equal(what: str, then: Any, now: Any, advice: str) -> None:
    if lines := differences(then, now):
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise MismatchError(
            f"cannot continue this run with another {what}: {'; '.join(lines[:_SHOWN])}{more}; "
            f"{advice}"
        )


def _require_base(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse another checkpoint than the one that a run began with, wherever it lies now."""
    old, new = then.get("base") or {}, now.get("base") or {}
    if old.get("fingerprint") != new.get("fingerprint"):
        raise MismatchError(
            f"cannot continue this run with another base checkpoint: it began with "
            f"{_describe_base(old)}, now it is given {_describe_base(new)}; give the same one "
            "(--step names the step), or another --run-dir"
        )


def _describe_base(base: Mapping[str, Any]) -> str:
    if not base:
        return "no checkpoint"
    return f"step {base.get('step')} of {base.get('run')} ({str(base.get('fingerprint'))[:12]})"


def _other_models(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of the models that the objective reads, by field."""
    fields = (config.get("objective") or {}).items()
    return {
        name: value["fingerprint"]
        for name, value in fields
        if isinstance(value, Mapping) and "fingerprint" in value
    }


def _architectures(*configs: Mapping[str, Any]) -> list[dict[str, Any]]:
    sections = with_defaults(*(config["model"] for config in configs))
    return [{"model": select_fields(section, ARCHITECTURE)} for section in sections]


def _adapters(*configs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the adapters; a field that is empty says the same as one that is None or absent."""
    sections = with_defaults(*(config.get("adapter") or {} for config in configs))
    chosen = (select_fields(section, ARCHITECTURE) for section in sections)
    return [
        {"adapter": {name: value for name, value in section.items() if value not in (None, [])}}
        for section in chosen
    ]


def package_versions() -> dict[str, str | None]:
    """Return the version of each package that computes or reads; None: it is not installed."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None  # run from a folder that was never installed
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None where git or a checkout is missing."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            timeout=_GIT_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
