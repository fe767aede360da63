"""Preferences and classes by the verb `finetune`: they are learned, resumed, and evaluated."""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.errors import BadInputError, ConfigError, MismatchError
from jaxgpt.eval import main as eval_main
from jaxgpt.finetune import main as finetune
from jaxgpt.finetuning.classification.objective import SingleLabel
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import check_run_files, open_run
from jaxgpt.runs.tuning import finetune_config
from jaxgpt.tools.merge_adapter import main as merge
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset

COLOURS = ("red", "green", "old", "new", "small", "quick")
NUM_STEPS = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    attention = GroupedQueryAttention(num_heads=2)
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0}, attention=attention)
    return folder / "run"


def _rows(kind: str) -> list[dict[str, Any]]:
    """Write rows about words: the answer to a prompt, and the class of a text, is its last one."""
    rng = random.Random(0)
    texts = {" ".join(rng.choice(COLOURS) for _ in range(rng.randint(1, 4))) for _ in range(140)}
    rows = []
    for number, text in enumerate(sorted(texts)):
        last, wrong = text.split()[-1], f"bird {rng.choice(COLOURS)}"
        is_good = number % 2 == 0
        rows.append(
            {
                "pairs": {"prompt": text, "chosen": last, "rejected": wrong},
                "judged": {
                    "prompt": text, "completion": last if is_good else wrong, "label": is_good
                },
                "texts": {"text": text, "label": last},
                "sets": {"text": text, "labels": sorted({*text.split()} & {"red", "old"})},
                "spans": {"text": text, "spans": _spans(text)},
            }[kind]
        )  # fmt: skip
    return rows


def _spans(text: str) -> list[dict[str, Any]]:
    """Mark the two colours."""
    found = [(match.start(), match.end()) for match in re.finditer("red|green", text)]
    return [{"start": start, "end": end, "label": "colour"} for start, end in found]


def _run(base: Path, folder: Path, config: str, kind: str, *more: str) -> list[dict[str, Any]]:
    """Fine-tune with a config; return the records of the evaluations."""
    data = base.parent / f"{kind}.jsonl"
    if not data.exists():
        data.write_text("".join(json.dumps(row) + "\n" for row in _rows(kind)))
    finetune(
        [
            "--config", config, "--checkpoint", str(base), "--data", str(data),
            "--run-dir", str(folder), "--batch.sequence-length", "32",
            "--batch.global-batch-size", "8", "--schedule.peak-learning-rate", "0.02",
            "--data.held-out-share", "0.2", "--runtime.compile-cache", "",
            "--schedule.num-steps", str(NUM_STEPS), "--evaluation.every-steps", "8",
            "--checkpoint.every-steps", "8", "--checkpoint.keep-latest", "3",
            "--evaluation.prompts", *more,
        ]
    )  # fmt: skip
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [record["eval"] for record in records if "eval" in record]


def _config(name: str) -> str:
    return str(REPOSITORY / "configs" / f"{name}.py")


def _params(run_dir: Path) -> list[np.ndarray]:
    params = open_run(run_dir).restore_params(NUM_STEPS, single_device_mesh())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


@pytest.fixture(scope="module")
def preferring(base: Path) -> Path:
    run_dir = base.parent / "preferring"
    evaluations = _run(base, run_dir, _config("dpo"), "pairs")
    # Before the first step the model is its own reference.
    assert evaluations[0]["loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert evaluations[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert evaluations[-1]["loss"] < 0.6
    return run_dir


def test_pairs_are_learned_and_evaluated(
    preferring: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eval_main(["--checkpoint", str(preferring), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["preference_accuracy"] > found["preference_accuracy_low"] > 0.6
    records = [json.loads(line) for line in (preferring / "metrics.jsonl").open()]
    steps = [record for record in records if "loss" in record]
    assert 0 < steps[0]["figures"]["reward_margin"] < found["reward_margin"]
    assert "bits_per_byte" not in steps[0]
    report = (preferring / "report.html").read_text()
    assert "preference accuracy" in report


def test_any_two_models_are_compared_on_the_same_pairs(
    base: Path, preferring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = tmp_path / "samples.jsonl"
    eval_main(
        ["--checkpoint", str(preferring), "--json", "--examples", "99", "--against", str(base),
         "--samples", str(samples)]
    )  # fmt: skip
    answers = ("chosen", "rejected")
    for sample in map(json.loads, samples.open()):
        # A long prompt has lost its beginning.
        prompt = sample["prompt"].removeprefix("user: ").removesuffix("\nassistant:")
        assert [sample[name] for name in answers] in [
            [row[name] for name in answers]
            for row in _rows("pairs")
            if row["prompt"].endswith(prompt)
        ]
    found = json.loads(capsys.readouterr().out)
    name = "log_probability_accuracy"
    figure, difference = (found[part]["pairs"][name] for part in ("tasks", "difference"))
    assert figure["n"] == found["examples"]
    assert figure["value"] == pytest.approx(found["likelihood_accuracy"])
    gain = found["likelihood_accuracy"] - found["likelihood_accuracy_before"]
    assert difference["value"] == pytest.approx(gain)
    # Every answer that is not preferred is the longer one; means over tokens do not see that.
    gained = found["difference"]["pairs"]["token_mean_accuracy"]
    assert 0 < gained["low"] < gained["value"] < gained["high"]


@pytest.mark.optimized
def test_a_resumed_run_reads_its_reference_and_ends_with_the_same_bits(
    base: Path, preferring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    shutil.copytree(preferring, again)
    for step in (16, 24):
        shutil.rmtree(again / "checkpoints" / str(step))
    monkeypatch.delattr(finetune_config, "score_answers")  # Nothing is computed again.
    _run(base, again, _config("dpo"), "pairs")
    for ours, theirs in zip(_params(again), _params(preferring), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_refused_resume_leaves_the_reference_as_it_was(base: Path, preferring: Path) -> None:
    before = (preferring / "reference.npz").read_bytes()
    with pytest.raises(MismatchError, match="another dataset"):
        _run(base, preferring, _config("dpo"), "pairs", "--data.held-out-share", "0.3")
    assert (preferring / "reference.npz").read_bytes() == before
    check_run_files(preferring)


def test_a_damaged_reference_is_refused(
    base: Path, preferring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(preferring, damaged)
    (damaged / "reference.npz").write_bytes(b"other")
    with pytest.raises(SystemExit) as stopped:
        run_verb(eval_main, ["--checkpoint", str(damaged)])
    assert stopped.value.code == 79
    assert "reference.npz" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["Ipo", "Orpo"])
def test_other_losses_of_pairs(base: Path, objective: str, tmp_path: Path) -> None:
    config = tmp_path / "other.py"
    config.write_text(Path(_config("dpo")).read_text().replace("Dpo(beta=0.1)", f"{objective}()")
                      .replace("Dpo,", f"{objective},"))  # fmt: skip
    evaluations = _run(base, tmp_path / "run", str(config), "pairs")
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert evaluations[-1]["preference_accuracy"] > 0.9
    assert (tmp_path / "run" / "reference.npz").exists() == (objective == "Ipo")


@pytest.mark.slow
def test_the_base_under_an_adapter_is_the_reference(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "adapter.py"
    config.write_text(
        Path(_config("dpo")).read_text()
        .replace("objective=Dpo(beta=0.1),", "objective=Dpo(beta=0.1), adapter=Lora(rank=4),")
        .replace("from jaxgpt.training", "from jaxgpt.model import Lora\nfrom jaxgpt.training")
    )  # fmt: skip
    run_dir = tmp_path / "run"
    evaluations = _run(base, run_dir, str(config), "pairs")
    assert evaluations[-1]["preference_accuracy_low"] > 0.5
    assert not (run_dir / "reference.npz").exists()
    # Merged, and so with log-probabilities of the base that are computed on their own.
    eval_main(["--checkpoint", str(run_dir), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(evaluations[-1]["loss"], abs=1e-4)
    merged = tmp_path / "merged"
    merge(["--checkpoint", str(run_dir), "--output", str(merged)])
    check_run_files(merged)
    moved = base.rename(base.parent / "moved")
    try:
        capsys.readouterr()
        eval_main(["--checkpoint", str(merged), "--json"])
    finally:
        moved.rename(base)
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(found["loss"], rel=1e-6)


@pytest.mark.slow
def test_judged_answers(base: Path, tmp_path: Path) -> None:
    evaluations = _run(base, tmp_path / "run", _config("kto"), "judged")
    assert evaluations[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert evaluations[-1]["loss"] < 0.4
    assert evaluations[-1]["preference_accuracy_low"] > 0.5


@pytest.fixture(scope="module")
def classifying(base: Path) -> Path:
    run_dir = base.parent / "classifying"
    evaluations = _run(base, run_dir, _config("classify"), "texts")
    assert evaluations[-1]["accuracy"] > evaluations[-1]["majority_accuracy"]
    objective = open_run(run_dir).config.objective
    assert isinstance(objective, SingleLabel)
    assert objective.labels == tuple(sorted(COLOURS))
    return run_dir


def test_classes_are_compared_with_those_of_n_grams(
    classifying: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="needs: pip install -e '.[metrics]'")
    argv = ["--examples", "99", "--example-scores", "n_grams"]
    eval_main(["--checkpoint", str(classifying), "--json", *argv])
    found = json.loads(capsys.readouterr().out)
    texts = found["tasks"]["texts"]
    assert texts["accuracy"]["value"] == pytest.approx(found["accuracy"])
    # Words without their places do not say which one is the last.
    assert 1 / len(COLOURS) < texts["n_grams_accuracy"]["value"] < 1
    gain = texts["accuracy"]["value"] - texts["n_grams_accuracy"]["value"]
    assert texts["above_n_grams"]["value"] == pytest.approx(gain)


def test_classes_are_learned_and_evaluated(
    classifying: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eval_main(["--checkpoint", str(classifying), "--json"])
    found = json.loads(capsys.readouterr().out)
    records = [json.loads(line) for line in (classifying / "metrics.jsonl").open()]
    last = [record["eval"] for record in records if "eval" in record][-1]
    assert found["macro_f1"] == pytest.approx(last["macro_f1"])
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "old bird", "label": "bird"}) + "\n")
    with pytest.raises(BadInputError, match="label 'bird' is not listed"):
        eval_main(["--checkpoint", str(classifying), "--data", str(other)])


def test_spans_are_learned_and_evaluated(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    evaluations = _run(base, run_dir, _config("extract"), "spans")
    assert evaluations[-1]["span_f1"] > 0.9
    assert evaluations[-1]["token_accuracy"] > evaluations[-1]["majority_token_accuracy"]
    eval_main(["--checkpoint", str(run_dir), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["labels"]["colour"] == evaluations[-1]["labels"]["colour"]


@pytest.mark.slow
def test_sets_of_classes(base: Path, tmp_path: Path) -> None:
    config = tmp_path / "sets.py"
    config.write_text(Path(_config("classify")).read_text().replace("SingleLabel", "MultiLabel"))
    evaluations = _run(base, tmp_path / "run", str(config), "sets")
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]


def test_examples_of_another_kind_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each example has 1 sequences"):
        _run(base, tmp_path / "one", _config("dpo"), "judged")
    with pytest.raises(
        BadInputError, match="SingleLabel needs examples with at least 2 labels, and found 0"
    ):
        _run(base, tmp_path / "two", _config("classify"), "judged")
