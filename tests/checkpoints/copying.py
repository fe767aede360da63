"""Run folders and their copies in the store that stands in for a bucket; see tests/stores.py."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.checkpoints.remote.mirror import RemoteCopy
from jaxgpt.storage import remote_folder, writer_lease
from tests import stores

CONFIG = CheckpointConfig(keep_latest=2, keep_best=1)


@pytest.fixture
def empty_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in, empty, and no waiting for it."""
    monkeypatch.setattr(remote_folder, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(writer_lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(writer_lease, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(writer_lease, "RENEW_SECONDS", 1000.0)
    stores.empty()
    yield
    stores.empty()


def open_copy(run_dir: Path, config: CheckpointConfig = CONFIG) -> RemoteCopy:
    run_dir.mkdir(exist_ok=True)
    return RemoteCopy(run_dir, stores.URL, config)


def save(run_dir: Path, *steps: int, loss: float = 1.0, value: int | None = None) -> None:
    """Save steps to the local folder, as if there were no URL."""
    (run_dir / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in steps))
    checkpoints = Checkpoints(run_dir / "checkpoints", CONFIG)
    for step in steps:
        array = np.full(1000, step if value is None else value, np.float32)
        state = {"m": array, "n": np.arange(10)}
        checkpoints.save(step, {"w": array}, state, {"step": step, "eval_loss": loss})
    checkpoints.close()


def restored(run_dir: Path) -> int | None:
    """The newest step of a folder, which must hold what was saved as it."""
    checkpoints = Checkpoints(run_dir / "checkpoints", CONFIG)
    step = checkpoints.latest_verified()
    if step is not None:
        abstract = {"w": jax.ShapeDtypeStruct((1000,), np.float32)}
        assert (checkpoints.restore_params(step, abstract)["w"] == step).all()
    checkpoints.close()
    return step
