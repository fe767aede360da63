"""What a run may go on as."""

import copy
import json
import subprocess
import sys

import pytest

from jaxgpt.checkpoints.lineage import check_resume, differences, git_state, make_lineage
from jaxgpt.errors import MismatchError


def lineage():
    return make_lineage(
        config={
            "model": {
                "type": "jaxgpt.model.gpt:GptConfig",
                "num_layers": 4,
                "attention": {
                    "type": "jaxgpt.model.attention:GroupedQueryAttention",
                    "num_heads": 12,
                    "kernel": {"type": "jaxgpt.model.attention_kernels:Fastest"},
                },
                "position": {"type": "jaxgpt.model.positions:Rotary", "max_wavelength": 1e4},
                "remat": {"type": "jaxgpt.model.remat:NoRemat"},
                "layers": {"type": "jaxgpt.model.layer_stack:Unrolled"},
            },
            "schedule": {"num_steps": 100},
            "seed": 0,
        },
        data={"datasets": [{"fingerprint": "aaaa", "share": 1}], "order": {"seed": 0}},
        tokenizer="tttt",
        devices={"kind": "cpu", "count": 8},
    )


def changed(path, value):
    now = copy.deepcopy(lineage())
    node = now
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return now


def test_it_is_plain_json_and_says_what_ran():
    made = lineage()
    assert json.loads(json.dumps(made)) == made
    assert made["environment"]["packages"].keys() >= {"jax", "flax", "optax", "grain", "numpy"}
    assert made["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert made["environment"]["devices"] == {"kind": "cpu", "count": 8}


def test_the_same_run_has_no_differences():
    assert check_resume(lineage(), json.loads(json.dumps(lineage()))) == []


@pytest.mark.parametrize("then", [{}, {"token_ids": None}, {"token_ids": []}], ids=str)
def test_no_rows_of_tokens_are_written_in_several_ways(then):
    adapter = {"type": "jaxgpt.model:Lora", "rank": 8}
    now = changed(["config", "adapter"], {**adapter, "token_ids": []})
    check_resume(changed(["config", "adapter"], {**adapter, **then}), now)
    now["config"]["adapter"]["token_ids"] = [3]
    with pytest.raises(MismatchError, match=r"another adapter: adapter.token_ids: absent then"):
        check_resume(changed(["config", "adapter"], {**adapter, **then}), now)


@pytest.mark.parametrize("allow_data_change", [False, True])
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["tokenizer"], "uuuu", r"another tokenizer: tokenizer: 'tttt' then, 'uuuu' now"),
        (["config", "model", "num_layers"], 8, r"model\.num_layers: 4 then, 8 now"),
        (
            ["config", "model", "position", "max_wavelength"],
            1e6,
            r"model\.position\.max_wavelength: 10000.0 then, 1000000.0 now",
        ),
        (["config", "model", "scale_embedding"], True, r"scale_embedding: False then, True now"),
        (["config", "model", "no_field"], 1, r"model\.no_field: absent then, 1 now"),
    ],
)
def test_another_tokenizer_or_architecture_is_always_refused(
    path, value, message, allow_data_change
):
    with pytest.raises(MismatchError, match=message):
        check_resume(lineage(), changed(path, value), allow_data_change)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            ["data", "datasets", 0, "fingerprint"],
            "bbbb",
            "data.datasets[0].fingerprint: 'aaaa' then, 'bbbb' now",
        ),
        (["data", "datasets", 0, "share"], 3, "data.datasets[0].share: 1 then, 3 now"),
        (
            ["data", "datasets"],
            [{"fingerprint": "aaaa", "share": 1}] * 2,
            "data.datasets: 1 items then, 2 now",
        ),
    ],
)
def test_another_dataset_is_refused_unless_allowed(path, value, line):
    now = changed(path, value)
    with pytest.raises(MismatchError, match=r"another dataset: .*--allow-data-change"):
        check_resume(lineage(), now)
    assert check_resume(lineage(), now, allow_data_change=True) == [line]


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (["config", "schedule", "num_steps"], 200, "config.schedule.num_steps: 100 then, 200 now"),
        (["environment", "devices", "count"], 1, "environment.devices.count: 8 then, 1 now"),
        (["data", "order", "seed"], 1, "data.order.seed: 0 then, 1 now"),
        (
            ["config", "model", "remat", "type"],
            "jaxgpt.model.remat:FullRemat",
            "config.model.remat.type: 'jaxgpt.model:NoRemat' then, 'jaxgpt.model:FullRemat' now",
        ),
        (
            ["config", "model", "attention", "kernel", "type"],
            "jaxgpt.model.attention_kernels:Reference",
            "config.model.attention.kernel.type: 'jaxgpt.model:Fastest' then, "
            "'jaxgpt.model:Reference' now",
        ),
        (
            ["config", "model", "compute_dtype"],
            "bfloat16",
            "config.model.compute_dtype: absent then, 'bfloat16' now",
        ),
        (
            ["config", "model", "dropout"],
            {"type": "jaxgpt.model.layers:Dropout", "residual": 0.1},
            "config.model.dropout: absent then, {'type': 'jaxgpt.model:Dropout', "
            "'residual': 0.1} now",
        ),
    ],
)
def test_all_else_may_change_and_is_listed(path, value, line):
    assert check_resume(lineage(), changed(path, value)) == [line]


def test_where_a_class_lay_when_its_name_was_written_is_no_difference():
    moved = changed(["config", "model", "remat", "type"], "jaxgpt.model:NoRemat")
    assert check_resume(lineage(), moved) == check_resume(moved, lineage()) == []


def test_another_format_version_is_refused_by_name():
    with pytest.raises(MismatchError, match="format 99"):
        check_resume(changed(["version"], 99), lineage())


def test_differences_of_unlike_things():
    then, now = {"a": {"b": 1}, "c": [1, 2], "d": None}, {"a": 3, "c": [1, 5], "e": None}
    assert differences(then, now) == [
        "a: {'b': 1} then, 3 now",
        "c[1]: 2 then, 5 now",
        "d: None then, absent now",
        "e: absent then, None now",
    ]


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_is_of_the_checkout_itself(tmp_path):
    folder = tmp_path.resolve()
    assert git_state(folder) is None
    git(folder, "init", "-q")
    assert git_state(folder) is None  # no commit yet
    (folder / "file").write_text("one")
    git(folder, "add", "file")
    git(folder, "commit", "-q", "-m", "first")
    commit = git(folder, "rev-parse", "HEAD")
    clean = {"commit": commit, "dirty": False, "untracked": []}
    assert git_state(folder) == clean
    (folder / "untracked").mkdir()
    (folder / "untracked" / "notes.txt").touch()
    assert git_state(folder) == clean
    (folder / "file").write_text("two")
    assert git_state(folder) == clean | {"dirty": True}
    # A package that merely lies inside somebody's checkout is not that checkout.
    assert git_state(folder / "untracked") is None


def test_python_files_that_git_does_not_have_make_a_checkout_dirty(tmp_path):
    folder = tmp_path.resolve()
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("local_*\n/.venv/\n")
    git(folder, "add", ".gitignore")
    git(folder, "commit", "-q", "-m", "first")
    for path in ("jaxgpt/local_kernel.py", "configs/mine.py", ".venv/site.py", "configs/local_.py"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    state = git_state(folder)
    assert state is not None
    assert state["dirty"]
    assert state["untracked"] == ["configs/mine.py", "jaxgpt/local_kernel.py"]
