"""Learning from checked answers by the verb `finetune`: figures, resume, evaluation, errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.eval import main as eval_main
from jaxgpt.finetune import main as finetune
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset

pytestmark = pytest.mark.figures

SFT, GRPO = (str(REPOSITORY / "configs" / name) for name in ("sft.py", "grpo.py"))
NUM_STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose model was drilled on a few answers, and now and then gives one of them."""
    folder = tmp_path_factory.mktemp("base")
    attention = GroupedQueryAttention(num_heads=2)
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0}, attention=attention)
    words = ("cat", "dog", "bird", "fish", "tree")
    rows = [
        {"prompt": f"{adjective} {word}", "completion": word}
        for word in words
        for adjective in ("old", "new", "slow", "quick", "small")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finetune(
        [
            "--config", SFT, "--checkpoint", str(folder / "run"), "--data",
            str(folder / "rows.jsonl"), "--run-dir", str(folder / "drilled"),
            "--batch.sequence-length", "16", "--batch.global-batch-size", "8",
            "--schedule.peak-learning-rate", "0.02", "--schedule.num-steps", "150",
            "--data.held-out-share", "0", "--runtime.compile-cache", "", "--evaluation.prompts",
        ]
    )  # fmt: skip
    return folder / "drilled"


def _run(base: Path, run_dir: Path, *more: str) -> None:
    finetune(
        [
            "--config", GRPO, "--checkpoint", str(base), "--data", str(base.parent / "rows.jsonl"),
            "--run-dir", str(run_dir), "--batch.sequence-length", "16",
            "--batch.global-batch-size", "8", "--objective.answers-per-prompt", "4",
            "--objective.max-answer-tokens", "6", "--schedule.peak-learning-rate", "0.02",
            "--data.held-out-share", "0.2", "--runtime.compile-cache", "",
            "--schedule.num-steps", str(NUM_STEPS), "--evaluation.every-steps", "3",
            "--checkpoint.every-steps", "2", "--checkpoint.keep-latest", "3",
            "--logging.every-steps", "1", "--evaluation.prompts", *more,
        ]
    )  # fmt: skip


def _records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def taught(base: Path) -> Path:
    run_dir = base.parent / "taught"
    _run(base, run_dir)
    return run_dir


@pytest.mark.slow
def test_each_step_logs_its_answers_and_the_report_shows_them(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = _records(taught)
    steps = [record for record in records if "figures" in record]
    assert [record["step"] for record in steps] == list(range(1, NUM_STEPS + 1))
    for record in steps:
        figures = record["figures"]
        assert figures["drift_largest"] < 1e-4
        assert 1 <= figures["answer_tokens"] <= 6
        assert 0 <= figures["reward"] <= 1
        assert 0 <= figures["groups_without_variance"] <= 1
        assert {"truncated", "ratio", "clipped", "drift", "entropy"} < figures.keys()
    found = [record["eval"] for record in records if "eval" in record]
    assert len(found) == 3, "before, and at steps 3 and 6"
    capsys.readouterr()
    eval_main(["--checkpoint", str(taught), "--json"])
    measured = json.loads(capsys.readouterr().out)
    for name in ("reward", "truncated", "answer_tokens", "examples"):
        assert measured[name] == found[-1][name]
    report = (taught / "report.html").read_text()
    for words in ("reward of answers", "groups without variance", "entropy"):
        assert words in report


@pytest.mark.optimized
def test_a_run_that_lost_its_last_steps_draws_the_same_answers_and_ends_with_the_same_bits(
    base: Path, taught: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(taught, again)
    for step in (4, 6):
        shutil.rmtree(again / "checkpoints" / str(step))
    _run(base, again)
    ours, theirs = (
        jax.tree.leaves(open_run(each).restore_params(NUM_STEPS, single_device_mesh()))
        for each in (again, taught)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    figures = [
        {record["step"]: record["figures"] for record in _records(each) if "figures" in record}
        for each in (again, taught)
    ]
    assert figures[0] == figures[1]
    # Both went on from step 2 and had something to learn then: right answers and wrong ones.
    assert any(figures[0][step]["groups_without_variance"] < 1 for step in (3, 4, 5, 6))


@pytest.mark.slow
def test_an_adapter_learns_from_its_own_answers(base: Path, tmp_path: Path) -> None:
    _run(base, tmp_path / "run", "--adapter", "Lora", "--schedule.num-steps", "2")
    steps = [record for record in _records(tmp_path / "run") if "figures" in record]
    # Answers are written with merged weights, and learned from with products apart.
    figures = steps[-1]["figures"]
    assert figures["drift_largest"] < 1e-3
    assert figures["entropy"] > 0


@pytest.mark.slow
def test_devices_that_divide_rows_and_weights_learn_the_same(base: Path, tmp_path: Path) -> None:
    figures = []
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        run_dir = tmp_path / "x".join(sizes)
        axes = [text for name, size in sizes.items() for text in (f"--mesh.{name}", str(size))]
        _run(base, run_dir, "--schedule.num-steps", "2", *axes)
        figures.append([each["figures"] for each in _records(run_dir) if "figures" in each])
    for ours, theirs in zip(*figures, strict=True):
        assert ours["answer_tokens"] == theirs["answer_tokens"]
        assert ours["entropy"] == pytest.approx(theirs["entropy"], rel=1e-4)


@pytest.mark.parametrize(
    ("option", "value", "code", "message"),
    [
        ("--objective.max-answer-tokens", "17", 78, "leaves no room for a prompt"),
        ("--objective.answers-per-prompt", "3", 78, "is not divisible by"),
        ("--loss.z-loss", "0.1", 78, "has no such term"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    base: Path, tmp_path: Path, option: str, value: str, code: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        run_verb(lambda argv: _run(base, tmp_path / "run", *argv), [option, value])
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
