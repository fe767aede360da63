"""The verb `finetune` on new text, and with a teacher: what is learned, kept, resumed, refused."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.config import replace
from jaxgpt.data.loader import BatchConfig, WeightedDataset
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import ConfigError, JaxgptError, MismatchError, UsageError
from jaxgpt.eval import main as eval_main
from jaxgpt.finetune import main as finetune
from jaxgpt.finetuning.text import NewText
from jaxgpt.generate import main as generate
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run
from jaxgpt.runs.tuning.based_config import complete, earlier_runs, open_data
from jaxgpt.runs.tuning.continue_config import ContinueConfig
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset

CONTINUE = str(REPOSITORY / "configs" / "continue.py")
DISTILL = str(REPOSITORY / "configs" / "distill.py")
STEPS = 30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_run(folder / "run", make_dataset(folder / "old"), {10: 3.0})
    return folder / "run"


@pytest.fixture(scope="module")
def new(base: Path) -> Path:
    """Write a dataset of other text in the run's tokens."""
    rng = random.Random(1)
    texts = [" ".join(rng.choices(["one", "two", "three"], k=30)) for _ in range(120)]
    return make_dataset(base.parent / "new", tokenizer=Tokenizer.load(base), texts=texts)


def arguments(config: str, base: Path, data: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "--config", config, "--checkpoint", str(base), "--data", str(data),
        "--run-dir", str(run_dir), "--batch.global-batch-size", "8",
        "--schedule.peak-learning-rate", "0.02", "--schedule.num-steps", str(STEPS),
        "--runtime.compile-cache", "", "--logging.every-steps", "5",
        "--evaluation.every-steps", "10", "--checkpoint.every-steps", "10",
        "--checkpoint.keep-latest", "3", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def continued(base: Path, new: Path) -> Path:
    run_dir = base.parent / "continued"
    finetune(arguments(CONTINUE, base, new, run_dir, "--data.replay-share", "0.25"))
    return run_dir


@pytest.fixture(scope="module")
def distilled(base: Path, new: Path, continued: Path) -> Path:
    """Let the base learn from the run that has learned the new text."""
    run_dir = base.parent / "distilled"
    finetune(arguments(CONTINUE, base, new, run_dir, *_teacher(continued)))
    return run_dir


def _teacher(run: Path) -> list[str]:
    return ["--objective", "Distilled", "--objective.teacher", str(run)]


def _records(run_dir: Path, kind: str) -> list[Any]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    return [record[kind] for record in records if kind in record]


def _params(run_dir: Path) -> list[np.ndarray]:
    params = open_run(run_dir).restore_params(STEPS, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_new_text_is_learned_and_the_old_is_measured_too(
    continued: Path, new: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = _records(continued, "eval")
    losses = [each["loss"] for each in evaluations]
    assert losses[-1] < losses[0]
    for data, key in ((None, "loss"), (new.parent / "old", "old_text_loss")):
        capsys.readouterr()
        eval_main(["--checkpoint", str(continued), "--json", *(["--data", str(data)] * bool(data))])
        scored = json.loads(capsys.readouterr().out)
        assert scored["loss"] == pytest.approx(evaluations[-1][key], rel=1e-6)
    generate(["--checkpoint", str(continued), "--prompt", "one two", "--json"])
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    assert sample["prompt"] == "one two"


def test_epochs_are_those_of_the_new_text(base: Path, new: Path) -> None:
    steps = []
    for share in (0.0, 0.5):
        data = NewText(datasets=(WeightedDataset(path=str(new)),), replay_share=share)
        batch = BatchConfig(sequence_length=16, global_batch_size=8)
        config = complete(ContinueConfig(data=data, batch=batch, num_epochs=1.0), str(base), "10")
        steps.append(open_data(config)[0].schedule.num_steps)
    num_tokens = TokenDataset.open(new).splits["train"].num_tokens
    assert steps[0] == pytest.approx(num_tokens / (16 * 8), abs=1)
    assert steps[1] == pytest.approx(2 * steps[0], abs=1)


def test_rows_longer_than_the_bases_are_a_warning(
    base: Path, new: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = NewText(datasets=(WeightedDataset(path=str(new)),))
    batch = BatchConfig(sequence_length=1024, global_batch_size=8)
    config = complete(ContinueConfig(data=data, batch=batch), str(base), "10")
    assert config.batch.sequence_length == 16, "those of the base, or shorter"
    open_data(config)
    assert not caplog.records
    open_data(replace(config, batch=replace(config.batch, sequence_length=24)))
    (record,) = caplog.records
    assert "rows of 24 tokens are longer than the 16 that" in record.getMessage()


def test_a_model_knows_what_the_runs_behind_it_read(base: Path, continued: Path) -> None:
    batch = BatchConfig(sequence_length=16, global_batch_size=8)
    checkpoint = complete(ContinueConfig(batch=batch), str(continued), "latest").base
    runs = list(earlier_runs(checkpoint))
    assert [run.directory for run in runs] == [continued, base]
    assert all(run.config.reads_documents for run in runs)
    moved = base.rename(base.parent / "moved")
    try:
        assert [run.directory for run in earlier_runs(checkpoint)] == [continued]
    finally:
        moved.rename(base)


def test_a_student_comes_close_to_its_teacher(distilled: Path) -> None:
    losses = [each["loss"] for each in _records(distilled, "eval")]
    assert losses[-1] < losses[0]
    divergences = [each["divergence_from_teacher"] for each in _records(distilled, "figures")]
    assert 0 < divergences[-1] < divergences[0] / 2


def test_a_run_that_lost_its_last_steps_ends_with_the_same_bits(
    base: Path, new: Path, continued: Path, distilled: Path, tmp_path: Path
) -> None:
    """With a teacher and replayed text."""
    again = tmp_path / "again"
    shutil.copytree(distilled, again)
    for step in (20, STEPS):
        shutil.rmtree(again / "checkpoints" / str(step))
    finetune(arguments(CONTINUE, base, new, again, *_teacher(continued)))
    for ours, theirs in zip(_params(again), _params(distilled), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_distilled_model_needs_its_teacher_no_more(
    base: Path, continued: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From examples; the teacher is wider than the student."""
    teacher, run_dir = tmp_path / "teacher", tmp_path / "run"
    make_run(teacher, base.parent / "old", {5: 3.0}, d_model=32)
    chats = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"the {n}", "completion": f"one {n % 7}"} for n in range(80)]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--objective.teacher", str(teacher), "--data.held-out-share", "0.2"]
    more += ["--schedule.num-steps", "2", "--batch.sequence-length", "32"]
    finetune(arguments(DISTILL, base, chats, run_dir, *more))
    shutil.rmtree(teacher)
    evaluation = _records(run_dir, "eval")[-1]
    capsys.readouterr()
    eval_main(["--checkpoint", str(run_dir), "--json"])
    scored = json.loads(capsys.readouterr().out)
    assert scored["loss"] == pytest.approx(evaluation["loss"], rel=1e-6)


def test_wrong_input_is_named(
    base: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_dataset(tmp_path / "other", num_documents=40, seed=7, texts=["zzz qqq"] * 40)
    stranger, orphan = tmp_path / "stranger", tmp_path / "orphan"
    make_run(stranger, other, {3: 3.0})
    lost = make_dataset(tmp_path / "lost", tokenizer=Tokenizer.load(base))
    make_run(orphan, lost, {3: 3.0})
    shutil.rmtree(lost)
    run = tmp_path / "run"

    def asked(data: Path, *more: str, checkpoint: Path = base) -> list[str]:
        return arguments(CONTINUE, checkpoint, data, run, *more)

    cases: list[tuple[list[str], type[JaxgptError], str]] = [
        (asked(other), MismatchError, "another tokenizer"),
        (asked(tmp_path / "none"), UsageError, "no dataset at"),
        (asked(new, checkpoint=orphan), UsageError, "lost that"),
        (asked(new, "--data.replay-share", "1"), ConfigError, "replay_share = 1"),
        (asked(new, "--objective", "Distilled"), ConfigError, "needs a teacher"),
        (asked(new, *_teacher(stranger)), MismatchError, "has another tokenizer"),
        (asked(new, *_teacher(tmp_path / "none")), UsageError, "no run folder at"),
    ]
    for argv, kind, message in cases:
        with pytest.raises(SystemExit) as stopped:
            run_verb(finetune, argv)
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: "), error
        assert message in error, error
        assert stopped.value.code == kind.exit_code, error
    assert not run.exists()
