"""`python -m jaxgpt.eval`: the figures of a whole split, on any devices; its errors."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgpt import eval as eval_verb
from jaxgpt.command_line import run_verb
from jaxgpt.data.shards import TokenDataset
from jaxgpt.model.layers.positions import Learned
from jaxgpt.model.pipeline import Pipelined
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run
from tests.run_folder import make_run
from tests.tiny import make_dataset


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    make_run(folder / "run", make_dataset(folder / "data"), {10: 3.0, 20: 4.0})
    return folder


def score(capsys: pytest.CaptureFixture[str], folders: Path, *argv: str) -> dict:
    eval_verb.main(["--checkpoint", str(folders / "run"), "--json", *argv])
    return json.loads(capsys.readouterr().out)


def test_the_figures_are_those_of_one_forward_pass_a_row(folders: Path, capsys) -> None:
    result = score(capsys, folders)
    run = open_run(folders / "run")
    params = run.restore_params(20, single_device_mesh())
    model = run.build_model()
    split = TokenDataset.open(folders / "data").splits["val"]
    tokens = split.read(0, split.num_tokens)
    starts = set(split.document_starts(0, split.num_tokens).tolist())
    # The context of a token: its row of 16, as far as its document reaches.
    length, total, count = 16, 0.0, 0
    apply = jax.jit(lambda ids: jax.nn.log_softmax(model.apply({"params": params}, ids)[0]))
    for begin in range(0, len(tokens) - 1, length):
        edges = [begin] + [b for b in range(begin + 1, begin + length) if b in starts]
        for first, last in zip(edges, [*edges[1:], begin + length], strict=True):
            inputs = np.zeros((1, length), np.int32)
            inputs[0, : len(tokens[first:last])] = tokens[first:last]
            scores = np.asarray(apply(inputs))[0]
            for place in range(first, min(last, len(tokens) - 1)):
                if place + 1 not in starts:
                    total -= float(scores[place - first, tokens[place + 1]])
                    count += 1
    assert result["tokens"] == count == split.num_tokens - split.num_documents
    assert result["bytes"] == split.num_bytes
    assert result["loss"] == pytest.approx(total / count, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(total / np.log(2) / split.num_bytes, rel=1e-5)
    assert result["step"] == 20


def test_devices_and_batch_size_change_nothing(folders: Path, capsys) -> None:
    expected = score(capsys, folders, "--mesh.data", "8", "--batch-size", "8")
    for argv in (("--mesh.data", "2", "--mesh.fsdp", "4"), ("--batch-size", "3")):
        result = score(capsys, folders, *argv)
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert result["tokens"] == expected["tokens"]


def test_the_loss_of_weights_and_cache_in_8_bits_is_near_and_the_same_on_a_mesh(
    folders: Path, capsys
) -> None:
    exact = score(capsys, folders)["loss"]
    losses = [
        score(capsys, folders, *argv)["loss"]
        for argv in (("--weights", "int8"), ("--cache", "int8"))
    ]
    assert all(0 < abs(loss - exact) < 0.02 * exact for loss in losses)
    assert losses[0] != losses[1]
    mesh = ("--mesh.data", "2", "--mesh.fsdp", "4")
    shared = score(capsys, folders, "--weights", "int8", *mesh)["loss"]
    assert shared == pytest.approx(losses[0], rel=1e-6)


def test_rows_are_rounded_up_to_what_stages_divide(folders: Path, tmp_path: Path, capsys) -> None:
    stages = Pipelined(num_micro_batches=8)
    make_run(tmp_path / "run", folders / "data", {20: 4.0}, layers=stages)
    argv = ("--checkpoint", str(tmp_path / "run"), "--json", "--batch-size", "4")
    eval_verb.main([*argv, "--mesh.data", "4", "--mesh.pipeline", "2"])
    result, expected = json.loads(capsys.readouterr().out), score(capsys, folders)
    assert result["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert result["tokens"] == expected["tokens"]


def test_step_split_and_length_are_chosen(folders: Path, capsys) -> None:
    best = score(capsys, folders, "--step", "best")
    assert best["step"] == 10
    assert best["loss"] != score(capsys, folders)["loss"]
    train = score(capsys, folders, "--split", "train", "--max-tokens", "300")
    assert 250 < train["tokens"] < 300
    longer = score(capsys, folders, "--sequence-length", "32")
    assert longer["tokens"] == best["tokens"]
    assert longer["loss"] != score(capsys, folders)["loss"]


def test_lines_for_people_hold_the_same_figures(folders: Path, capsys) -> None:
    result = score(capsys, folders)
    eval_verb.main(["--checkpoint", str(folders / "run")])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == result.keys()
    assert float(lines["bits_per_byte"]) == pytest.approx(result["bits_per_byte"], abs=1e-4)


def fails(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run_verb(eval_verb.main, argv)
    printed = capsys.readouterr()
    assert stop.value.code == code
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("error: ")
    return printed.err


def test_other_text_of_the_same_tokenizer_is_scored_and_of_another_refused(
    folders: Path, tmp_path: Path, capsys
) -> None:
    tokenizer = open_run(folders / "run").tokenizer
    other = make_dataset(tmp_path / "other", 60, seed=5, tokenizer=tokenizer)
    assert score(capsys, folders, "--data", str(other))["data"] == str(other)
    foreign = make_dataset(tmp_path / "foreign", 60, seed=6)
    run = str(folders / "run")
    message = fails(capsys, 79, "--checkpoint", run, "--data", str(foreign))
    assert run in message
    assert str(foreign) in message
    assert tokenizer.fingerprint[:12] in message
    assert TokenDataset.open(foreign).load_tokenizer().fingerprint[:12] in message


def test_errors_name_what_is_wrong_and_what_there_is(folders: Path, tmp_path: Path, capsys) -> None:
    run = ("--checkpoint", str(folders / "run"))
    assert "did you mean 'val'" in fails(capsys, 2, *run, "--split", "vall")
    assert "there are 10, 20" in fails(capsys, 2, *run, "--step", "11")
    assert "--batch-size 0 must be at least 1" in fails(capsys, 2, *run, "--batch-size", "0")
    assert "does not divide the 8 devices" in fails(capsys, 78, *run, "--mesh.data", "3")
    assert str(tmp_path) in fails(capsys, 79, *run, "--data", str(tmp_path))
    fails(capsys, 2, *run, "--data", str(tmp_path / "none"))
    fails(capsys, 2, "--checkpoint", str(tmp_path / "none"))


def test_a_model_without_positions_for_the_length_is_a_config_error(
    folders: Path, tmp_path: Path, capsys
) -> None:
    make_run(tmp_path / "run", folders / "data", {1: 2.0}, position=Learned(max_length=16))
    argv = ("--checkpoint", str(tmp_path / "run"), "--sequence-length", "17")
    assert "learned positions" in fails(capsys, 78, *argv)


ITEMS = [
    {"query": "the cat", "choices": ["sees a dog", "finds the old river", "bird"], "gold": 2},
    {"query": "one quick dog", "choices": ["keeps", "likes every green bird"], "gold": "A"},
    {"query": "a slow tree", "choices": ["has new stone", "near", "under"], "gold": 1},
]


def write_items(path: Path, items: list) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_tasks_are_scored_beside_the_split_and_their_items_kept(
    folders: Path, tmp_path: Path, capsys
) -> None:
    file, samples = write_items(tmp_path / "mine.jsonl", ITEMS), tmp_path / "samples.jsonl"
    argv = ("--tasks", f"mine={file}", f"piqa={file}", "--num-shots", "1")
    result = score(capsys, folders, *argv, "--samples", str(samples), "--against",
                   str(folders / "run"), "--against-step", "10")  # fmt: skip
    assert result["loss"] == score(capsys, folders)["loss"]
    assert result["tasks"].keys() == {"mine", "piqa"}
    settings = result["task_settings"]["mine"]
    assert settings["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    expected = {"bos": True, "num_shots": 1, "form": "cloze", "items": 3, "task": "MultipleChoice"}
    assert expected.items() <= settings.items()
    assert settings["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [(each["task"], each["line"]) for each in records] == [
        (name, line) for name in ("mine", "piqa") for line in (1, 2, 3)
    ]
    first = records[0]
    assert first["requests"][0] == ["one quick dog keeps\n\nthe cat", " sees a dog"]
    assert records[3]["requests"][0][0].endswith("the cat\nAnswer:")
    # The records have what the figures are made of.
    best = [max(range(len(each["requests"])), key=each["log_likelihoods"].__getitem__)
            == each["gold"] for each in records[:3]]  # fmt: skip
    figure = result["tasks"]["mine"]["acc"]
    assert (figure["value"], figure["n"]) == (pytest.approx(sum(best) / 3), 3)
    assert figure["stderr"] == pytest.approx(np.std(best, ddof=1) / np.sqrt(3))
    other = score(capsys, folders, *argv, "--step", "10")["tasks"]
    for name, metrics in result["difference"].items():
        for metric, found in metrics.items():
            ours, theirs = result["tasks"][name][metric], other[name][metric]
            assert found["value"] == pytest.approx(ours["value"] - theirs["value"])
            assert found["low"] <= found["value"] <= found["high"]


def test_core_names_what_is_missing(folders: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "world").mkdir()
    write_items(tmp_path / "world" / "copa.jsonl", ITEMS)
    eval_verb.main(["--checkpoint", str(folders / "run"), "--core", str(tmp_path), "--limit", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert "copa (cloze; 0 shots, BOS on, chance 0.417)" in lines
    assert any(line.startswith("  acc_tokens") and line.endswith("n = 2") for line in lines)
    assert lines[-1].startswith("core             not known; missing: hellaswag_zeroshot, jeopardy")


def test_tasks_need_no_dataset(folders: Path, tmp_path: Path, capsys, caplog) -> None:
    make_run(tmp_path / "run", make_dataset(tmp_path / "data", 40), {1: 2.0})
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    file = write_items(tmp_path / "mine.jsonl", ITEMS)
    config = tmp_path / "task.py"
    config.write_text(
        "from jaxgpt.evaluation.tasks import MultipleChoice\n"
        "config = MultipleChoice(query='I say: {query}')\n"
    )
    argv = ["--checkpoint", str(tmp_path / "run"), "--tasks", f"mine={file}", "--json"]
    eval_verb.main([*argv, "--task-config", f"mine={config}", "--add-bos", "False"])
    result = json.loads(capsys.readouterr().out)
    assert "loss" not in result
    assert "only the tasks are scored" in caplog.text
    settings = result["task_settings"]["mine"]
    assert settings["bos"] is False
    assert settings["config"]["query"] == "I say: {query}"


def test_errors_of_tasks_name_file_and_line(folders: Path, tmp_path: Path, capsys) -> None:
    run = ("--checkpoint", str(folders / "run"))
    file = write_items(tmp_path / "mine.jsonl", [ITEMS[0], {"query": "the"}])
    message = fails(capsys, 82, *run, "--tasks", f"mine={file}")
    assert f"{file}:2 is no item of MultipleChoice: it has no field 'choices'" in message
    assert "form NAME=FILE" in fails(capsys, 2, *run, "--tasks", str(file))
    assert "no evaluation file at" in fails(capsys, 2, *run, "--tasks", "piqa=none.jsonl")
    assert "needs tasks" in fails(capsys, 78, *run, "--samples", str(tmp_path / "samples"))
    assert "no file of CORE below" in fails(capsys, 2, *run, "--core", str(tmp_path))
