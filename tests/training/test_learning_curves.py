"""Fast paths and the definitions they stand for learn alike: the same losses, step after step.

Each path equals a float64 reference by itself (tests/model, test_loss_head.py); here errors have
64 steps to add up, on packed rows, with a window, grouped heads and an odd number of chunks.
"""

from pathlib import Path

import numpy as np
import pytest

from jaxgpt.config import load_config, replace
from jaxgpt.model.attention.kernels import Fastest
from jaxgpt.model.attention.reference import Reference
from jaxgpt.model.layer_stack import Scanned, Unrolled
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.model.remat import FullRemat
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.training.chunked_loss import TokenChunks, WholeLogits
from jaxgpt.training.metrics import read_records
from tests.tiny import make_dataset, write_config

pytestmark = pytest.mark.optimized
NUM_STEPS = 64


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Everything fast: rows of keys that end at the mask, three chunks of the loss, unrolled."""
    root = tmp_path_factory.mktemp("curves")
    dataset = make_dataset(root / "data")
    path = write_config(root / "c.py", [(dataset, 1)], NUM_STEPS, save_every=NUM_STEPS)
    tiny = load_config(path, TrainConfig)
    attention = replace(tiny.model.attention, windows=(16, None), kernel=Fastest())
    return replace(
        tiny,
        model=replace(
            tiny.model,
            attention=attention,
            layers=Unrolled(),
            dropout=Dropout(),
            compute_dtype="float32",
        ),
        loss=replace(tiny.loss, logits=TokenChunks(num_tokens=100)),
        batch=replace(tiny.batch, sequence_length=40, global_batch_size=16, num_micro_batches=1),
        evaluation=replace(tiny.evaluation, every_steps=NUM_STEPS, prompts=()),
        runtime=RuntimeConfig(compile_cache=str(root / "cache")),
    )


def _as_defined(config: TrainConfig) -> TrainConfig:
    """Whole scores, whole logits, automatic gradients."""
    attention = replace(config.model.attention, kernel=Reference())
    return replace(
        config,
        model=replace(config.model, attention=attention),
        loss=replace(config.loss, logits=WholeLogits()),
    )


def _losses(config: TrainConfig, run_dir: Path) -> np.ndarray:
    train_run(config, run_dir, "never", False)
    records = read_records(run_dir / "metrics.jsonl")
    losses = np.array([record["loss"] for record in records if "grad_norm" in record])
    assert len(losses) == NUM_STEPS
    return losses


@pytest.fixture(scope="module")
def reference(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    losses = _losses(_as_defined(config), tmp_path_factory.mktemp("runs") / "reference")
    assert losses[-8:].mean() < losses[:8].mean() - 1.5, "nothing is learned that could differ"
    return losses


def test_in_float32_each_loss_is_the_references(
    config: TrainConfig, reference: np.ndarray, tmp_path: Path
) -> None:
    np.testing.assert_allclose(_losses(config, tmp_path / "run"), reference, rtol=1e-5)


def test_so_it_is_scanned_recomputed_and_in_micro_batches(
    config: TrainConfig, reference: np.ndarray, tmp_path: Path
) -> None:
    saving = replace(
        config,
        model=replace(config.model, layers=Scanned(), remat=FullRemat()),
        batch=replace(config.batch, num_micro_batches=2),
    )
    np.testing.assert_allclose(_losses(saving, tmp_path / "run"), reference, rtol=1e-5)


def test_in_bfloat16_the_curve_is_that_of_float32(
    config: TrainConfig, reference: np.ndarray, tmp_path: Path
) -> None:
    narrow = replace(config, model=replace(config.model, compute_dtype="bfloat16"))
    difference = _losses(narrow, tmp_path / "run") - reference
    # bfloat16 has 8 bits: a loss of 3 to 6 nats may be off by some thousandths, to either side.
    assert np.abs(difference).max() < 0.02
    assert abs(difference.mean()) < 0.005
