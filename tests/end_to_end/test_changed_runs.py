"""A run that goes on with other text and another batch size: nothing is judged by what was."""

import itertools
import random
import shutil
from pathlib import Path

import pytest

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import load_config, replace
from jaxgpt.data.loader import WeightedDataset
from jaxgpt.runs import state
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.metrics import read_records
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.recovery import SkipSpikes
from tests.tiny import hash_folder, make_dataset, write_config

CHANGED_AT = 24


def _digits(num_documents: int) -> list[str]:
    rng = random.Random(5)
    return [" ".join(str(rng.randrange(10**6)) for _ in range(30)) for _ in range(num_documents)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("changed")
    words = make_dataset(root / "words")
    tokenizer = Tokenizer.load(words / "tokenizer")
    make_dataset(root / "digits", tokenizer=tokenizer, texts=_digits(120))
    config = load_config(write_config(root / "c.py", [(words, 1)], CHANGED_AT, 4), TrainConfig)
    return replace(
        config,
        model=replace(config.model, num_layers=1),
        batch=replace(config.batch, global_batch_size=8, num_micro_batches=1),
        optimizer=AdamW(),
        recovery=SkipSpikes(window=16, min_steps=8, max_in_a_row=3, rewind_steps=8),
        checkpoint=CheckpointConfig(every_steps=4, keep_latest=9),
        evaluation=replace(config.evaluation, every_steps=4, prompts=(), batch_size=8),
        runtime=RuntimeConfig(compile_cache=""),
    )


def _on_digits(config: TrainConfig, num_steps: int = 2 * CHANGED_AT) -> TrainConfig:
    path = Path(config.data.datasets[0].path).with_name("digits")
    return replace(
        config,
        data=replace(config.data, datasets=(WeightedDataset(path=str(path)),)),
        schedule=replace(config.schedule, num_steps=num_steps),
    )


@pytest.fixture(scope="module")
def run_on_words(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    train_run(config, run_dir, "auto", False)
    return run_dir


def _events(run_dir: Path, name: str) -> list[dict]:
    return [event for event in read_records(run_dir / "events.jsonl") if event["event"] == name]


def _steps(run_dir: Path) -> list[dict]:
    return [line for line in read_records(run_dir / "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
def test_other_text_in_larger_batches_is_learned_and_counted(config, run_on_words: Path) -> None:
    run_dir = run_on_words.with_name("changed")
    shutil.copytree(run_on_words, run_dir)
    before = hash_folder(run_dir / "checkpoints" / str(CHANGED_AT))
    digits = _on_digits(config, num_steps=CHANGED_AT + 8)
    batch = replace(config.batch, global_batch_size=24, sequence_length=8)
    train_run(replace(digits, batch=batch), run_dir, "auto", True)
    losses = [line["loss"] for line in _steps(run_dir)]
    assert losses[CHANGED_AT] > losses[CHANGED_AT - 1] + 1, "the text is not another after all"
    assert _events(run_dir, "skip") == _events(run_dir, "rollback") == []
    (resume,) = _events(run_dir, "resume")
    assert any("fingerprint" in line for line in resume["changes"])
    assert hash_folder(run_dir / "checkpoints" / str(CHANGED_AT)) == before
    tokens = [line["tokens"] for line in _steps(run_dir)]
    sizes = [after - before for before, after in itertools.pairwise([0, *tokens])]
    assert sizes == [8 * 16] * CHANGED_AT + [24 * 8] * 8
    checkpoints = Checkpoints(run_dir / "checkpoints", CheckpointConfig(), read_only=True)
    assert checkpoints.read_metadata(CHANGED_AT + 8)["tokens"] == sum(sizes)


@pytest.mark.slow
def test_a_level_that_changed_unseen_is_learned_again(config, run_on_words, monkeypatch) -> None:
    """As if the fingerprints had not told: refused at first, and no run ends by it."""
    monkeypatch.setattr(state, "differences", lambda then, now: [])
    sharper = replace(_on_digits(config), recovery=replace(config.recovery, sigmas=2.0))
    run_dir = run_on_words.with_name("unseen")
    shutil.copytree(run_on_words, run_dir)
    train_run(sharper, run_dir, "auto", True)
    rollbacks = [event["is_learned_again"] for event in _events(run_dir, "rollback")]
    assert rollbacks == [False, True]
    losses = [line["loss"] for line in _steps(run_dir)]
    assert losses[-1] < losses[CHANGED_AT] - 1
