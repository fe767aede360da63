"""The verb `finetune`: from a checkpoint and a file to a model that answers, and its errors."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt.command_line import run_verb
from jaxgpt.errors import BadInputError, ConfigError, MismatchError, UsageError
from jaxgpt.eval import main as eval_main
from jaxgpt.finetune import main as finetune
from jaxgpt.generate import main as generate
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.cost import num_parameters
from jaxgpt.model.heads import LanguageModelHead
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.plan import main as plan
from jaxgpt.runs.evaluation import evaluate
from jaxgpt.runs.run import open_run
from tests.run_folder import make_run
from tests.tiny import REPOSITORY, make_dataset
from tests.xla_flags import with_devices

LENGTH = 32
BASE = str(REPOSITORY / "configs" / "base.py")
CONTINUE = str(REPOSITORY / "configs" / "continue.py")
SFT = str(REPOSITORY / "configs" / "sft.py")
COLOURS = ("red", "green", "old", "new", "small", "quick")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    attention = GroupedQueryAttention(num_heads=2)
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0}, attention=attention)
    return folder / "run"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write questions whose answer is their last word."""
    rng = random.Random(0)
    rows = []
    for _ in range(150):
        words = [rng.choice(COLOURS) for _ in range(rng.randint(1, 4))]
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": " ".join(words)},
                    {"role": "assistant", "content": words[-1]},
                ]
            }
        )
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(base: Path, data: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "--config", SFT, "--checkpoint", str(base), "--data", str(data), "--run-dir", str(run_dir),
        "--batch.sequence-length", str(LENGTH), "--batch.global-batch-size", "8",
        "--schedule.peak-learning-rate", "0.02", "--data.held-out-share", "0.2",
        "--runtime.compile-cache", "", "--evaluation.prompts", "old red",
        "--evaluation.sample-tokens", "4", "--evaluation.every-steps", "20",
        "--checkpoint.every-steps", "20", "--checkpoint.keep-latest", "3", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(base: Path, chats: Path) -> Path:
    """Train for 60 steps."""
    run_dir = base.parent / "tuned"
    finetune(arguments(base, chats, run_dir, "--schedule.num-steps", "60"))
    return run_dir


def params_of(run_dir: Path, step: int) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(
        open_run(run_dir).restore_params(step, single_device_mesh()))]  # fmt: skip


def test_held_out_loss_falls_and_answers_end(
    base: Path, tuned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.loads(line) for line in (tuned / "metrics.jsonl").open()]
    losses = [record["eval"]["loss"] for record in records if "eval" in record]
    assert len(losses) == 4, "before, and at steps 20, 40 and 60"
    assert losses == sorted(losses, reverse=True)
    capsys.readouterr()
    eval_main(["--checkpoint", str(tuned), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["target_loss"] == found["loss"] == pytest.approx(losses[-1], rel=1e-6)
    generate(["--checkpoint", str(tuned), "--prompt", "old red", "--json", "--temperature", "0"])
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    assert sample["finish"] == "stop"
    events = [json.loads(line) for line in (tuned / "events.jsonl").open()]
    samples = [(each["step"], each["prompt"]) for each in events if each["event"] == "sample"]
    assert samples == [(step, "old red") for step in (0, 20, 40, 60)]


def _generated(run_dir: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> dict:
    generate(["--checkpoint", str(run_dir), "--prompt", prompt, "--json", "--temperature", "0"])
    return json.loads(capsys.readouterr().out)["samples"][0]


def test_answers_to_held_out_prompts_are_those_of_generate(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = tmp_path / "samples.jsonl"
    asked = ["--examples", "8", "--answer-tokens", "6", "--against", str(base), "--json"]
    capsys.readouterr()
    eval_main(["--checkpoint", str(tuned), *asked, "--samples", str(samples)])
    result = json.loads(capsys.readouterr().out)
    figures, difference = result["tasks"]["answers"], result["difference"]["answers"]
    assert figures["ended"]["n"] == 8
    assert figures["ended"]["value"] == difference["ended"]["value"] == 1, "the base cannot end"
    records = [json.loads(line) for line in samples.open()]
    assert all(each["gold"] == each["prompt"].split()[-2] for each in records)
    matches = [each["text"] == each["gold"] for each in records]
    assert figures["exact_match"]["value"] == np.mean(matches)
    for record in records[:2]:
        prompt = record["prompt"].removeprefix("user: ").removesuffix("\nassistant:")
        sample = _generated(tuned, prompt, capsys)
        assert (sample["text"], sample["finish"]) == (record["text"], "stop")


def test_tasks_ask_a_tuned_model_in_its_template(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, samples = tmp_path / "sums.jsonl", tmp_path / "samples.jsonl"
    file.write_text(json.dumps({"question": "old red", "answer": "#### 1"}) + "\n")
    eval_main(
        ["--checkpoint", str(tuned), "--tasks", f"gsm8k={file}", "--samples", str(samples),
         "--max-tokens", "64", "--against", str(base), "--json"]
    )  # fmt: skip
    settings = json.loads(capsys.readouterr().out)["task_settings"]["gsm8k"]
    assert settings["prompt_form"] == "chat template"
    assert settings["against_prompt_form"] == "plain text"
    (text,) = json.loads(samples.read_text())["texts"]
    assert text == _generated(tuned, "Question: old red\nAnswer:", capsys)["text"]


def test_scores_of_examples_that_are_not_there_are_refused_before_any_score(
    base: Path,
    tuned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(evaluate, "loaded_run")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    moved = ["--data", str(tmp_path / "moved.jsonl"), "--tasks", "gsm8k=rows.jsonl"]
    stranger = tmp_path / "stranger"
    make_run(stranger, make_dataset(tmp_path / "data", seed=9), {7: 3.0})
    for argv, code, message in [
        (["--checkpoint", str(base), "--examples", "3"], 2, "a run that learned from examples"),
        (
            ["--checkpoint", str(tuned), "--examples", "3", "--example-scores", "n_grams"],
            2,
            "no score of Supervised; allowed: chrf, rouge",
        ),
        (["--checkpoint", str(tuned), "--example-scores", "chrf"], 78, "--examples N"),
        (
            ["--checkpoint", str(tuned), "--examples", "3", "--example-scores", "chrf"],
            78,
            "needs the package sacrebleu",
        ),
        (["--checkpoint", str(tuned), "--examples", "3", *moved], 2, "moved.jsonl"),
        (
            ["--checkpoint", str(tuned), "--examples", "3", "--against", str(stranger)],
            79,
            "another tokenizer",
        ),
    ]:
        with pytest.raises(SystemExit) as stopped:
            run_verb(eval_main, argv)
        assert stopped.value.code == code
        assert message in capsys.readouterr().err


class _Accepted(Exception):
    pass


def test_a_second_model_may_have_another_kernel_of_its_head(
    base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untied, attention = LanguageModelHead(tied=False), GroupedQueryAttention(num_heads=2)
    make_run(tmp_path / "untied", base.parent / "data", {7: 3.0}, head=untied, attention=attention)

    def accept(*_: object) -> None:
        raise _Accepted

    monkeypatch.setattr(evaluate, "loaded_run", accept)
    with pytest.raises(_Accepted):
        eval_main(
            ["--checkpoint", str(tuned), "--examples", "3", "--against", str(tmp_path / "untied")]
        )


def test_a_run_that_lost_its_last_steps_ends_with_the_same_bits(
    base: Path, chats: Path, tuned: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(tuned, again)
    for step in (40, 60):
        shutil.rmtree(again / "checkpoints" / str(step))
    finetune(arguments(base, chats, again, "--schedule.num-steps", "60"))
    for ours, theirs in zip(params_of(again, 60), params_of(tuned, 60), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_devices_that_divide_rows_and_weights_learn_the_same(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    losses = []
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}):
        run_dir = tmp_path / "x".join(sizes)
        axes = [text for name, size in sizes.items() for text in (f"--mesh.{name}", str(size))]
        every = [
            text for name in ("checkpoint", "evaluation") for text in (f"--{name}.every-steps", "1")
        ]
        finetune(arguments(base, chats, run_dir, "--schedule.num-steps", "3", *axes, *every))
        records = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
        losses.append([record["eval"]["loss"] for record in records if "eval" in record])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_plan_counts_what_an_adapter_trains_and_the_steps_of_the_data(
    base: Path, chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = str(REPOSITORY / "configs" / "lora.py")
    small = ["--batch.global-batch-size", "8", "--adapter.rank", "2", "--json"]
    plan(["--config", lora, "--checkpoint", str(base), "--data", str(chats), *small])
    found = json.loads(capsys.readouterr().out)
    run = open_run(base)
    own, inputs = run.config.model, {"query": 16, "key": 16, "value": 16, "output": 16}
    inputs |= {"gate": 16, "up": 16, "down": 32}
    outputs = {"query": 16, "key": 16, "value": 16, "output": 16, "gate": 32, "up": 32, "down": 16}
    assert found["num_parameters"] == num_parameters(own, run.tokenizer.vocab_size)
    matrices = 2 * sum(2 * (inputs[name] + outputs[name]) for name in inputs)
    # The base has read documents only: the rows of the template's four tokens are trained, too.
    assert found["num_trained"] == matrices + 4 * own.d_model
    sizes = found["bytes_per_device"]
    assert sizes["frozen"] == 4 * found["num_parameters"]
    assert sizes["parameters"] == 4 * found["num_trained"] == sizes["gradients"]
    with pytest.raises(UsageError, match="--checkpoint is missing"):
        plan(["--config", lora, "--data", str(chats)])
    with pytest.raises(UsageError, match="has no part in this run"):
        plan(["--config", BASE, "--checkpoint", str(base)])


@pytest.mark.slow
def test_devices_can_still_be_set_when_base_and_data_are_open(
    base: Path, chats: Path, tmp_path: Path
) -> None:
    """JAX must not have started: several hosts could not join any more."""
    argv = arguments(
        base, chats, tmp_path / "run", "--schedule.num-steps", "1", "--runtime.cpu-devices", "2",
        "--mesh.data", "2",
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "jaxgpt.finetune", *argv],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": with_devices(None)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2 x cpu" in result.stdout + result.stderr


def test_wrong_input_is_named(
    base: Path, chats: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "old", "chosen": "red", "rejected": "blue"}\n' * 3)
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"colour": "red"}\n')
    labelled = tmp_path / "labelled.jsonl"
    rows = [{"text": f"{word} red", "label": "warm"} for word in COLOURS]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = base.parent / "other"
    make_run(other, base.parent / "data", {7: 3.0}, attention=GroupedQueryAttention(num_heads=2))
    new = tmp_path / "new"
    cases = [
        (["--config", SFT, "--data", str(chats)], UsageError, "--checkpoint is missing"),
        (
            ["--config", BASE, "--checkpoint", str(base)],
            ConfigError,
            "expected a run that begins with a checkpoint, such as configs/sft.py",
        ),
        (
            ["--config", str(base / "config.json"), "--checkpoint", str(base)],
            ConfigError,
            "type jaxgpt:TrainConfig; expected a run that begins with a checkpoint",
        ),
        (arguments(tmp_path / "none", chats, new), UsageError, "no run folder at"),
        (arguments(base, tmp_path / "none.jsonl", new), UsageError, "none.jsonl"),
        (arguments(base, odd, new), BadInputError, "colour"),
        (arguments(base, pairs, new), ConfigError, "has 2 sequences"),
        (arguments(base, labelled, new), BadInputError, "no token of the examples is a target"),
        (
            arguments(base, chats, new, "--num-epochs", "2", "--schedule.num-steps", "3"),
            UsageError,
            "exclude each other",
        ),
        (["--config", CONTINUE, "--checkpoint", str(base)], UsageError, "give --data DIR"),
        (
            arguments(other, chats, tuned, "--schedule.num-steps", "60"),
            MismatchError,
            "base checkpoint",
        ),
    ]
    for argv, kind, message in cases:
        with pytest.raises(SystemExit) as stopped:
            run_verb(finetune, argv)
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: "), error
        assert message in error, error
        assert stopped.value.code == kind.exit_code, error
    assert not new.exists()


BAD_ROWS = {
    "another field": ("sft", {"prompt": "old", "completions": "red"}, "fit no known form"),
    "empty answer": ("sft", {"prompt": "old", "completion": " "}, ":1: the answer in message 2"),
    "roles": (
        "sft",
        {"messages": [{"role": "user", "content": "old"}] * 2},
        ":1: message 2 is of role 'user', where 'assistant' is due",
    ),
    "length": ("sft", {"prompt": "old " * 40, "completion": "red"}, "the context takes 33"),
    "label": ("classify", {"text": "old", "label": "blue"}, "not listed in objective.labels"),
    "equal": ("dpo", {"prompt": "old", "chosen": "red", "rejected": "red"}, "1 equal_answers"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_are_no_examples_are_named(
    name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, row, message = BAD_ROWS[name]
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")
    more = {
        "length": ("--data.too-long", "refuse"),
        "label": ("--objective.labels", "warm", "cold"),
    }
    argv = arguments(base, data, tmp_path / "run", *more.get(name, ()))
    argv[1] = str(REPOSITORY / "configs" / f"{config}.py")
    with pytest.raises(SystemExit) as stopped:
        run_verb(finetune, argv)
    (error,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert stopped.value.code == BadInputError.exit_code
    assert message in error
    assert not (tmp_path / "run").exists()
