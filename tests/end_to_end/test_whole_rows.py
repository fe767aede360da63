"""Rows that are one running text, which carry no segments, train like any others."""

from pathlib import Path

import pytest

from jaxgpt.config import load_config, replace
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.training.metrics import read_records
from tests.tiny import make_dataset, write_config

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_a_run_that_keeps_no_documents_apart(tmp_path: Path, num_micro_batches: int) -> None:
    config = load_config(
        write_config(tmp_path / "c.py", [(make_dataset(tmp_path / "data"), 1)], 3, 3), TrainConfig
    )
    config = replace(
        config,
        data=replace(config.data, mask_documents=False),
        batch=replace(config.batch, global_batch_size=16, num_micro_batches=num_micro_batches),
        runtime=RuntimeConfig(compile_cache=str(tmp_path / "cache")),
    )
    train_run(config, tmp_path / "run", "auto", False)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 3
    assert losses[2] < losses[1] < losses[0]
