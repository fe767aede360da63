"""What goes wrong for users: one line that says what to do, and the contract's exit code."""

import shutil
from pathlib import Path

import pytest

from jaxgpt import eval as eval_verb
from jaxgpt import generate, train
from jaxgpt.command_line import run_verb
from tests.tiny import REPOSITORY, make_dataset, write_config


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, another with another tokenizer, a config, and a finished short run."""
    root = tmp_path_factory.mktemp("errors")
    data = make_dataset(root / "data")
    make_dataset(root / "other", num_documents=150, seed=3)
    write_config(root / "tiny.py", [(data, 1.0)], num_steps=2, save_every=1)
    assert _run(train.main, *_train(root, "run")) == 0
    return root


def _train(root: Path, run: str, *more: str) -> list[str]:
    # 16 rows: this process sees 8 devices, and the config has 2 micro-batches.
    batch = ["--batch.global-batch-size", "16"]
    return ["--config", str(root / "tiny.py"), "--run-dir", str(root / run), *batch, *more]


def _run(main, *argv: str) -> object:
    """The exit code of a verb."""
    try:
        run_verb(main, list(argv))
    except SystemExit as stop:
        return stop.code
    return 0


CASES = [
    ("unknown option", ["--modle.d-model", "3"], 2, "did you mean --model.d-model?"),
    ("wrong type", ["--model.d-model", "wide"], 2, "'wide'"),
    ("bad enum", ["--model.compute-dtype", "bfloat17"], 2, "'bfloat16'"),
    ("impossible", ["--model.d-model", "15"], 78, "15 and 2"),
    ("weights in bfloat16", ["--model.param-dtype", "bfloat16"], 78, "compute_dtype='bfloat16'"),
    ("missing dataset", ["--data", "/no/such/data"], 2, "no dataset at /no/such/data"),
    ("not a dataset", ["--data", "{root}"], 79, "manifest.json"),
    ("other tokenizer", ["--data", "{root}/other"], 79, "another tokenizer"),
    ("other model", ["--model.num-layers", "3"], 79, "num_layers: 2 then, 3 now"),
    ("resume never", ["--resume", "never"], 2, "--resume is never"),
    ("unwritable run", ["--run-dir", "/proc/none"], 2, "cannot write to /proc/none"),
    ("resume must", ["--run-dir", "{root}/none", "--resume", "must"], 81, "--resume auto"),
    ("batch", ["--batch.global-batch-size", "9"], 78, "num_micro_batches"),
    ("long windows", ["--batch.sequence-length", "99999", "--run-dir", "{root}/n"], 78, "99999"),
]


@pytest.mark.parametrize(("name", "more", "code", "message"), CASES, ids=[c[0] for c in CASES])
def test_train(world: Path, capsys, name: str, more: list[str], code: int, message: str) -> None:
    more = [argument.format(root=world) for argument in more]
    found = _run(train.main, *_train(world, "run"), *more)
    _check(capsys.readouterr().err, found, code, message)


def test_a_config_of_another_command(capsys) -> None:
    argv = ["--config", str(REPOSITORY / "configs" / "sft.py")]
    found = _run(train.main, *argv)
    message = "type FinetuneConfig; expected a pretraining run, such as configs/base.py"
    _check(capsys.readouterr().err, found, 78, message)


def test_config_file_errors(world: Path, capsys) -> None:
    path = world / "typo.py"
    path.write_text((world / "tiny.py").read_text().replace("num_layers=", "num_layer="))
    found = _run(train.main, "--config", str(path))
    _check(capsys.readouterr().err, found, 78, "did you mean 'num_layers'?")
    found = _run(train.main, "--config", "/no/config.py")
    _check(capsys.readouterr().err, found, 2, "no config file at /no/config.py")
    found = _run(train.main)
    _check(capsys.readouterr().err, found, 2, "--config is missing")


@pytest.mark.parametrize("verb", [eval_verb, generate], ids=["eval", "generate"])
def test_reading_a_run(world: Path, capsys, verb) -> None:
    cases = [
        (["--checkpoint", str(world / "none")], 2, "no run folder at"),
        (["--checkpoint", str(world / "data")], 79, "not a run folder"),
        (["--checkpoint", str(world / "run"), "--step", "7"], 2, "7"),
        (["--checkpoint", str(world / "run"), "--step", "newest"], 2, "newest"),
    ]
    for argv, code, message in cases:
        found = _run(verb.main, *argv)
        _check(capsys.readouterr().err, found, code, message)


def test_eval_on_a_dataset_of_another_tokenizer(world: Path, capsys) -> None:
    found = _run(eval_verb.main, "--checkpoint", str(world / "run"), "--data", str(world / "other"))
    _check(capsys.readouterr().err, found, 79, "tokenizer")


def test_a_run_without_a_checkpoint(world: Path, capsys) -> None:
    empty = world / "empty"
    shutil.copytree(world / "run", empty)
    shutil.rmtree(empty / "checkpoints")
    found = _run(eval_verb.main, "--checkpoint", str(empty))
    _check(capsys.readouterr().err, found, 81, "checkpoint")


def test_a_config_json_of_another_version_is_refused_by_name(world: Path, capsys) -> None:
    later = world / "later"
    shutil.copytree(world / "run", later)
    text = (later / "config.json").read_text().replace('"version": 1', '"version": 2')
    (later / "config.json").write_text(text)
    (later / "integrity.json").unlink()  # as a later version would have written its own
    found = _run(eval_verb.main, "--checkpoint", str(later))
    _check(capsys.readouterr().err, found, 79, "format version 2")


def _check(printed: str, found: object, code: int, message: str) -> None:
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, printed
    assert message in errors[0]
    assert found == code, errors[0]
    assert "Traceback" not in printed
