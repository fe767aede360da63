"""Two processes with four devices each are one run: same numbers, same files, same end."""

import itertools
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.tiny import REPOSITORY, environment, make_dataset, run_verb
from tests.two_hosts import (
    TRAIN,
    Hosts,
    free_port,
    jobset_variables,
    num_lines,
    open_mpi_variables,
    slurm_variables,
    write_small_config,
)

pytestmark = pytest.mark.slow

HEARTBEAT_SECONDS = 8
LATE = (
    "-c",
    "import time; now = time.time; time.time = lambda: now() + 3600; "
    "from jaxgpt.command_line import run_verb; from jaxgpt.train import main; run_verb(main)",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset, another one, a config, a compile cache."""
    root = tmp_path_factory.mktemp("hosts")
    make_dataset(root / "other", seed=1)
    config = write_small_config(root / "small.py", make_dataset(root / "data"))
    return {"root": root, "config": config, "cache": root / "cache"}


@pytest.fixture(scope="module")
def alone(world: dict[str, Path]) -> Path:
    """The run of one process with eight devices."""
    run_dir = world["root"] / "alone"
    _train_alone(world, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def together(world: dict[str, Path]) -> Path:
    """The run of two processes with four each, started as Slurm would."""
    run_dir = world["root"] / "together"
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir)]
    with Hosts(arguments, world["cache"], variables=slurm_variables()) as hosts:
        ends = hosts.ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "loss" in ends[0][2]
    assert "loss" not in ends[1][2], "one host talks"
    return run_dir


def _train_alone(world: dict[str, Path], run_dir: Path, *options: str) -> None:
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir), *options]
    result = run_verb("train", *arguments, cache=world["cache"], num_devices=8)
    assert result.returncode == 0, result.stderr


def _losses(run_dir: Path, after: int = 0) -> dict[str, float]:
    """Training and evaluation losses by step; no step may stand twice."""
    found: dict[str, float] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if not {"loss", "eval"} & set(record):
            continue
        name = f"{'eval' if 'eval' in record else 'train'} {record['step']}"
        assert name not in found
        if record["step"] > after:
            found[name] = record["eval"]["loss"] if "eval" in record else record["loss"]
    return found


def _events(run_dir: Path, name: str) -> list[dict]:
    events = map(json.loads, (run_dir / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == name]


def test_two_hosts_train_what_one_does(alone: Path, together: Path):
    expected = _losses(alone)
    assert len(expected) == 14
    assert _losses(together) == pytest.approx(expected, rel=1e-6)


def test_the_folder_is_that_of_one_run(alone: Path, together: Path):
    names = {path.name for path in together.iterdir()}
    assert names == {path.name for path in alone.iterdir()}
    assert {path.name for path in (together / "checkpoints").iterdir()} == {"6", "12"}
    (start,) = _events(together, "start")
    assert start["num_processes"] == len(start["hosts"]) == 2
    assert start["all_reduce_bytes_per_second"] > 0


def _texts(samples: Path) -> list[str]:
    """Texts that a model wrote; their log-likelihoods depend on the mesh in the last digits."""
    return [json.loads(line).get("text", "") for line in samples.read_text().splitlines()]


def test_eval_on_two_hosts_prints_once_what_one_prints(world: dict[str, Path], together: Path):
    root, cache = world["root"], world["cache"]
    pairs = itertools.product(("old", "new", "red"), ("cat", "dog", "bird", "fish"))
    rows = [{"prompt": " ".join(pair), "completion": pair[1]} for pair in pairs]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_dir, samples = root / "tuned", root / "samples.jsonl"
    arguments = ["--config", str(REPOSITORY / "configs" / "sft.py"), "--checkpoint", str(together)]
    arguments += ["--data", str(root / "rows.jsonl"), "--run-dir", str(run_dir)]
    arguments += ["--schedule.num-steps", "2", "--batch.global-batch-size", "8"]
    arguments += ["--data.held-out-share", "0.4", "--evaluation.prompts", "old cat"]
    with Hosts(arguments, cache, programs=(("-m", "jaxgpt.finetune"),) * 2) as hosts:
        assert [code for code, _, _ in hosts.ends()] == [0, 0]

    # Choices are scored on all devices, and answers written on one of each host.
    (root / "piqa.jsonl").write_text(
        '{"goal": "a cat", "sol1": "sees", "sol2": "likes it", "label": 1}\n'
    )
    arguments = ["--checkpoint", str(run_dir), "--tasks", f"piqa={root / 'piqa.jsonl'}"]
    arguments += ["--examples", "8", "--answer-tokens", "4", "--samples", str(samples), "--json"]
    one = run_verb("eval", *arguments, cache=cache, num_devices=8)
    assert one.returncode == 0, one.stderr
    texts = _texts(samples)
    samples.unlink()
    with Hosts(arguments, cache, programs=(("-m", "jaxgpt.eval"),) * 2) as hosts:
        (code, first, errors), (other_code, second, _) = hosts.ends()
    assert (code, other_code, second) == (0, 0, ""), errors
    expected, found = json.loads(one.stdout), json.loads(first)
    assert found["tasks"].keys() == {"piqa", "answers"}
    assert found["tasks"] == expected["tasks"]
    assert _texts(samples) == texts
    losses = [found["loss"], _losses(run_dir)["eval 2"]]
    assert losses == pytest.approx([expected["loss"]] * 2, rel=1e-6)


def test_sigterm_to_one_host_stops_both_after_the_same_step(world: dict[str, Path]):
    run_dir = world["root"] / "term"
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir)]
    arguments += ["--schedule.num-steps", "5000", "--checkpoint.every-steps", "5000"]
    with Hosts(arguments, world["cache"], variables=open_mpi_variables()) as hosts:
        started = lambda: num_lines(run_dir / "metrics.jsonl") >= 3  # noqa: E731
        hosts.signal_when(started, 1, signal.SIGTERM)
        ends = hosts.ends()
    (stopped,) = _events(run_dir, "stopped")
    assert (run_dir / "checkpoints" / str(stopped["step"]) / "metadata.json").is_file()
    for code, _, errors in ends:
        assert code == 75, errors
        assert f"stopped by SIGTERM at step {stopped['step']} of 5000, which is saved" in errors


@pytest.mark.parametrize(
    ("programs", "own", "words"),
    [
        (
            (TRAIN, TRAIN),
            ("--data", "other"),
            ("config, dataset, tokenizer", "config.data.datasets[0].path: "),
        ),
        ((TRAIN, LATE), (), ("clock of host 1", "ahead of that of host 0")),
    ],
)
def test_hosts_that_differ_are_refused_by_name(world, programs, own, words):
    own = [str(world["root"] / word) if word == "other" else word for word in own]
    run_dir = world["root"] / "refused"
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir)]
    with Hosts(arguments, world["cache"], programs=programs, own=((), own)) as hosts:
        ends = hosts.ends()
    for code, _, errors in ends:
        assert code == 79, errors
        assert "host 1 (" in errors
        for word in words:
            assert word in errors
    assert not run_dir.exists()


@pytest.mark.parametrize(("first", "then"), [("alone", "together"), ("together", "alone")])
def test_a_run_goes_on_with_more_or_fewer_hosts(world, alone, together, first, then, request):
    run_dir = world["root"] / f"{first}-then-{then}"
    shutil.copytree(request.getfixturevalue(first), run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "12")
    if then == "alone":
        _train_alone(world, run_dir)
    else:
        arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir)]
        with Hosts(arguments, world["cache"], variables=jobset_variables()) as hosts:
            assert [code for code, _, _ in hosts.ends()] == [0, 0]
    assert len(_losses(run_dir, after=6)) == 7
    assert _losses(run_dir) == pytest.approx(_losses(alone), rel=1e-6)


@pytest.mark.parametrize(
    "mesh",
    [
        # Every host holds half of each row: both read all of them. Other meshes across hosts are in
        # tests/training/test_meshes_on_hosts.py.
        ("--mesh.data", "1", "--mesh.context", "8"),
    ],
)
def test_any_mesh_across_hosts_trains_what_one_process_does(world, mesh, request):
    name = "-".join(word.strip("-") for word in mesh)
    one, two = world["root"] / f"one-{name}", world["root"] / f"two-{name}"
    prompts = ("--evaluation.prompts", "the cat", "--evaluation.sample-tokens", "4")
    _train_alone(world, one, *mesh, *prompts)
    arguments = ["--config", str(world["config"]), "--run-dir", str(two), *mesh, *prompts]
    with Hosts(arguments, world["cache"]) as hosts:
        ends = hosts.ends()
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert _losses(two) == pytest.approx(_losses(one), rel=1e-6)
    texts = [[event["text"] for event in _events(run, "sample")] for run in (one, two)]
    assert len(texts[0]) == 2
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("number", "victim"), [(signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_a_host_that_dies_or_hangs_ends_the_other(world, number, victim):
    run_dir = world["root"] / f"{number.name}-{victim}"
    arguments = ["--config", str(world["config"]), "--run-dir", str(run_dir)]
    arguments += ["--schedule.num-steps", "5000", "--checkpoint.every-steps", "20"]
    cache = world["cache"]
    with Hosts(arguments, cache, heartbeat_seconds=HEARTBEAT_SECONDS) as hosts:
        saved = lambda: (run_dir / "checkpoints" / "20").is_dir()  # noqa: E731
        sent = hosts.signal_when(saved, victim, number)
        code, _, errors = hosts.end_of(1 - victim)
        took = time.monotonic() - sent
    assert code == 75, errors
    assert f"host {victim} (" in errors
    assert "is lost" in errors
    assert took < HEARTBEAT_SECONDS + 5
    result = run_verb("train", *arguments, "--schedule.num-steps", "45", cache=cache, num_devices=8)
    assert result.returncode == 0, result.stderr
    assert _events(run_dir, "resume")[0]["step"] >= 20


def test_a_host_that_does_not_come_is_named(world):
    arguments = ["--config", str(world["config"]), "--run-dir", str(world["root"] / "missing")]
    arguments += ["--hosts.start-timeout-seconds", "5"]
    variables = slurm_variables(3)
    with Hosts(arguments, world["cache"], variables=variables[:2]) as hosts:
        ends = hosts.ends()
    for code, _, errors in ends:
        assert code == 75
        assert "host 2 of 3 did not connect within 5 s" in errors


def test_the_commands_of_the_page_run(world):
    page = (REPOSITORY / "docs" / "hosts.md").read_text()
    (block,) = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
    run_dir = world["root"] / "page"
    for old, new in {
        "configs/quickstart.py": str(world["config"]),
        "runs/quickstart/data": str(world["root"] / "data"),
        "runs/two": str(run_dir),
        "127.0.0.1:29400": f"127.0.0.1:{free_port()}",
    }.items():
        assert old in block
        block = block.replace(old, new)
    process = subprocess.run(
        ["bash", "-c", block],
        cwd=REPOSITORY,
        env=environment(world["cache"]),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert len(_events(run_dir, "start")[0]["hosts"]) == 2
    assert list(_losses(run_dir)) == ["train 1", "train 2", "eval 2"]
