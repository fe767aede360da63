"""`gpu`: refused without one; its order, limits and files on tiny shapes of this machine."""

import importlib
import json
from pathlib import Path

import pytest

from jaxgpt.benchmarks import gpu_suite
from jaxgpt.benchmarks.gpu_suite import GpuBenchmark, run_suite
from jaxgpt.command_line import parse_options
from jaxgpt.errors import ConfigError
from tools.benchmark import MEASURES


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU, and JAX finds only cpu") as error:
        GpuBenchmark(output=str(tmp_path / "out")).run()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", gpu_suite.MEASURES)
def test_every_measure_parses(name: str) -> None:
    measure, *options = gpu_suite.MEASURES[name]
    module, config = MEASURES[measure]
    kind = getattr(importlib.import_module(module), config)
    benchmark = parse_options(kind, options, prog=measure)
    assert benchmark.dtype == "bfloat16"


def test_measures_run_in_turn_and_one_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ("attention", "--sequence-length", "16", "--repeats", "1", "--rounds", "1")
    measures = {
        "impossible": (*tiny, "--kernel", "cudnn"),
        "possible": (*tiny, "--kernel", "reference"),
    }
    report = run_suite(measures, tmp_path, seconds=300, measure_seconds=200)
    assert "cudnn cannot compute" in report.found["impossible"]["error"]
    written = json.loads((tmp_path / "possible.json").read_text())
    assert written == report.found["possible"]
    assert written["value"] > 0
    text = report.to_text()
    assert "tokens/s" in text
    assert "cudnn cannot compute" in text
    assert json.loads(json.dumps(report.to_json()))["measures"].keys() == measures.keys()
    assert "possible: " in capsys.readouterr().err


def test_time_is_kept(tmp_path: Path) -> None:
    measures = {"slow": ("attention",), "late": ("attention",)}
    report = run_suite(measures, tmp_path, seconds=0.2, measure_seconds=0.1)
    assert report.found["slow"]["error"] == "given up after 0 seconds"
    report = run_suite(measures, tmp_path, seconds=0.0, measure_seconds=0.1)
    assert "not begun" in report.found["late"]["error"]


def test_settings_that_name_no_measure_are_refused() -> None:
    with pytest.raises(ConfigError, match="no measure train-7b; there are train-124m-compile"):
        GpuBenchmark(only=("train-7b",))
    with pytest.raises(ConfigError, match="positive"):
        GpuBenchmark(seconds=0.0)
