"""Settings that a run keeps from its first start, where the command leaves them to the data."""

import json
from pathlib import Path
from typing import Any

from jaxgpt.checkpoints.remote.steps import RemoteSteps
from jaxgpt.checkpoints.step_folders import named_steps
from jaxgpt.config import replace
from jaxgpt.model.layers.adapters import LowRank
from jaxgpt.runs.folder import read_lineage
from jaxgpt.runs.tuning.based_config import BasedRunConfig
from jaxgpt.storage.remote_folder import RemoteFolder


def as_begun(config: BasedRunConfig, run_dir: Path, url: str | None) -> BasedRunConfig:
    """Return the config with the rows of tokens that the run in a folder trains already.

    Its data and its base would choose them again, and no longer the same ones: a base may be gone,
    and runs of earlier versions trained no such rows.

    Args:
        config: before its data are open.
        run_dir: the run's folder; there may be no run in it yet.
        url: where the run lives, if not there.

    Raises:
        MismatchError: see `read_lineage`.
        StoreError: the store does not answer.
    """
    adapter = config.adapter
    if not isinstance(adapter, LowRank) or adapter.token_ids is not None:
        return config
    lineage = _read_lineage(run_dir) if url is None else _fetch_lineage(url)
    if lineage is None:
        return config
    ids = (lineage["config"].get("adapter") or {}).get("token_ids") or ()
    return replace(config, adapter=replace(adapter, token_ids=tuple(ids)))


def _read_lineage(run_dir: Path) -> dict[str, Any] | None:
    """Return the lineage of a run that has a step, None for a new run."""
    return read_lineage(run_dir) if named_steps(run_dir / "checkpoints") else None


def _fetch_lineage(url: str) -> dict[str, Any] | None:
    folder = RemoteFolder(url)
    if not RemoteSteps(folder).counted():
        return None
    try:
        lineage: dict[str, Any] = json.loads(folder.read("lineage.json"))
    except (FileNotFoundError, ValueError):
        return None  # The run is refused where it is read for good.
    return lineage
