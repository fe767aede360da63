"""The plan verb: what it prints and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxgpt import plan, train
from jaxgpt.command_line import run_verb
from jaxgpt.config import load_config
from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.parallel.mesh import abstract_mesh
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.mesh_check import check_mesh
from tests.tiny import REPOSITORY, make_dataset, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    return str(write_config(folder / "tiny.py", [(make_dataset(folder / "data"), 1.0)]))


def _json(capsys, *argv: str):
    plan.main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_parts_add_up_and_shardings_name_every_parameter(config, capsys) -> None:
    found = _json(
        capsys, "--config", config, "--num-devices", "2", "--mesh.data", "1", "--mesh.fsdp", "2",
        "--shardings", "--price-per-hour", "2.0",
    )  # fmt: skip
    parts = found["bytes_per_device"]
    assert parts.pop("total") == sum(parts.values())
    assert found["fits"]
    assert sum(place["bytes_per_device"] for place in found["shardings"]) == parts["parameters"]
    query = next(p for p in found["shardings"] if p["name"] == "blocks.attention.query.kernel")
    assert query["shape"] == [2, 16, 2, 8]
    assert query["split"][1] == "fsdp"
    assert query["bytes_per_device"] == 2 * 16 * 2 * 8 * 4 // 2
    hours = found["days"] * 24
    assert found["cost"] == pytest.approx(hours * 2.0 * 2)
    # 20 steps, each as long as the estimate says.
    assert hours * 3600 == pytest.approx(20 * found["step_seconds"])


def test_what_training_refuses_is_not_planned(config) -> None:
    with pytest.raises(ConfigError, match=r"set model\.param_dtype='float32'"):
        plan.main(["--config", config, "--model.param-dtype", "bfloat16"])


def test_a_model_too_large_is_told_what_to_do(config, capsys) -> None:
    plan.main(["--config", config, "--device", "l4", "--model.d-model", "32768"])
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown
    assert "split it over more devices (--mesh.fsdp" in shown


def test_what_cannot_be_planned_is_refused(config) -> None:
    with pytest.raises(UsageError, match="no device 'h10'; did you mean 'h100'"):
        plan.main(["--config", config, "--device", "h10"])
    with pytest.raises(UsageError, match=r"--utilization 1.5 must be in \(0, 1\]"):
        plan.main(["--config", config, "--utilization", "1.5"])
    with pytest.raises(ConfigError, match="does not divide the 3 devices"):
        plan.main(["--config", config, "--num-devices", "3", "--mesh.fsdp", "2"])
    with pytest.raises(ConfigError, match="global_batch_size=8 is not divisible"):
        plan.main(["--config", config, "--num-devices", "3"])
    with pytest.raises(ConfigError, match=r"evaluation\.batch_size=15 does not divide"):
        plan.main(["--config", config, "--num-devices", "2", "--evaluation.batch-size", "15"])
    with pytest.raises(ConfigError, match="give --vocab-size N"):
        plan.main(["--config", str(REPOSITORY / "configs" / "base.py")])


@pytest.mark.parametrize("name", ["base", "medium", "large", "llama_1b"])
def test_configs_for_gpus_divide_among_8(name: str) -> None:
    config = load_config(REPOSITORY / "configs" / f"{name}.py", TrainConfig)
    for num_devices in (1, 2, 4, 8):
        check_mesh(config, abstract_mesh(config.mesh, num_devices))


REFUSED = {
    "layers that pass none on": ("Scanned()", (), "mesh.pipeline=2 puts layers on different"),
    "layers that are no stages": (
        "Pipelined(num_micro_batches=2)",
        ("--model.num-layers", "3"),
        "3 layers in patterns of 1 do not divide into 2",
    ),
    "rows that a stage cannot divide": (
        "Pipelined(num_micro_batches=3)",
        (),
        "16 rows do not divide into model.layers.num_micro_batches=3",
    ),
    "rows of an evaluation": (
        "Pipelined(num_micro_batches=4)",
        ("--evaluation.batch-size", "8"),
        "evaluation.batch_size=8 does not divide .* use a multiple of 16",
    ),
}


@pytest.mark.parametrize(("layers", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_train_refuses_is_refused_in_the_same_words(
    config, tmp_path, capsys, layers: str, options: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "stages.py"
    text = "from jaxgpt.model.pipeline import Pipelined\n" + Path(config).read_text()
    path.write_text(text.replace("layers=Scanned()", f"layers={layers}"))
    mesh = ("--mesh.data", "4", "--mesh.pipeline", "2", "--batch.global-batch-size", "32")

    def refusal(main: Callable[..., None], *more: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run_verb(main, ["--config", str(path), *mesh, *options, *more])
        assert stop.value.code == 78
        return capsys.readouterr().err.splitlines()[-1]

    planned = refusal(plan.main, "--num-devices", "8")
    assert re.search(message, planned)
    assert planned == refusal(train.main, "--run-dir", str(tmp_path / "run"))
    # Before anything of a run is written.
    assert not (tmp_path / "run" / "config.json").exists()
