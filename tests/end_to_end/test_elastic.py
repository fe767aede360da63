"""A run continued on other devices: the same batches, the same losses, whatever the mesh."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import make_dataset, run_verb, write_config

NUM_STEPS, SAVE_EVERY = 18, 6
# Number of devices -> how they are arranged.
MESHES = {
    8: {"data": 1, "fsdp": 4, "context": 2},
    2: {"data": 1, "tensor": 2},
    1: {"data": 1},
}


def _train(config: Path, run_dir: Path, num_devices: int, resume: str) -> list[float]:
    """Losses of all steps in the run folder after training on so many devices."""
    mesh = [f"--mesh.{name}={size}" for name, size in MESHES[num_devices].items()]
    found = run_verb(
        "train", "--config", str(config), "--run-dir", str(run_dir), "--resume", resume,
        "--checkpoint.keep-latest=3", "--evaluation.every-steps=18", "--evaluation.prompts",
        # The one key/value head is on every device.
        "--sharding.kv-heads=None", *mesh,
        cache=run_dir.parent / "cache", num_devices=num_devices,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    losses = {record["step"]: record["loss"] for record in records if "loss" in record}
    assert sorted(losses) == list(range(1, NUM_STEPS + 1))
    return [losses[step] for step in sorted(losses)]


def _back_to(step: int, run_dir: Path, copy: Path) -> Path:
    """A copy of a run as it was when it had saved `step`."""
    shutil.copytree(run_dir, copy)
    for later in (copy / "checkpoints").iterdir():
        if later.name.isdigit() and int(later.name) > step:
            shutil.rmtree(later)
    return copy


@pytest.mark.slow
def test_saved_on_eight_devices_and_continued_on_two_one_and_eight_again(tmp_path) -> None:
    config = write_config(
        tmp_path / "tiny.py", [(make_dataset(tmp_path / "data"), 1.0)], NUM_STEPS, SAVE_EVERY
    )
    calm = _train(config, tmp_path / "eight", 8, "never")
    for num_devices in (2, 1):
        run_dir = _back_to(6, tmp_path / "eight", tmp_path / f"on-{num_devices}")
        losses = _train(config, run_dir, num_devices, "must")
        # Every batch is another one, of a loss of its own.
        assert len({round(loss, 4) for loss in losses}) > NUM_STEPS / 2
        np.testing.assert_allclose(losses[6:12], calm[6:12], rtol=1e-6)
    back = _back_to(12, tmp_path / "on-1", tmp_path / "back")
    losses = _train(config, back, 8, "must")
    alone = [json.loads(line) for line in (tmp_path / "on-1" / "metrics.jsonl").open()]
    alone = [record["loss"] for record in alone if "loss" in record]
    np.testing.assert_allclose(losses[12:], alone[12:], rtol=1e-6)
