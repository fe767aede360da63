"""Suites: `gpu` is refused without one; order, limits, files and figures on tiny shapes."""

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jaxgpt.benchmarks.suites import cpu_suite, gpu_suite
from jaxgpt.benchmarks.suites.cpu_suite import CpuBenchmark
from jaxgpt.benchmarks.suites.gpu_suite import GpuBenchmark
from jaxgpt.benchmarks.suites.suite import SuiteReport, run_suite
from jaxgpt.command_line import parse_options
from jaxgpt.errors import ConfigError
from jaxgpt.tools.benchmark import MEASURES

pytestmark = pytest.mark.slow


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU, and JAX finds only cpu") as error:
        GpuBenchmark(output=str(tmp_path / "out")).run()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def _parsed(arguments):
    measure, *options = arguments
    module, config = MEASURES[measure]
    return parse_options(getattr(importlib.import_module(module), config), options, prog=measure)


@pytest.mark.parametrize("name", gpu_suite.MEASURES)
def test_every_measure_of_a_gpu_parses(name: str) -> None:
    assert _parsed(gpu_suite.MEASURES[name]).dtype == "bfloat16"


@pytest.mark.parametrize("name", cpu_suite.MEASURES)
def test_every_measure_of_a_cpu_parses(name: str) -> None:
    benchmark = _parsed(cpu_suite.MEASURES[name])
    for dtype in ("float32", "bfloat16"):
        if dtype in name:
            assert benchmark.dtype == dtype


def test_measures_run_in_turn_and_one_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ("attention", "--sequence-length", "16", "--repeats", "1", "--rounds", "1")
    measures = {
        "impossible": (*tiny, "--kernel", "cudnn"),
        "possible": (*tiny, "--against", "reference"),
    }
    report = run_suite("cpu", measures, tmp_path, seconds=300, measure_seconds=200)
    assert "cudnn cannot compute" in report.found["impossible"]["error"]
    written = json.loads((tmp_path / "possible.json").read_text())
    assert written == report.found["possible"]
    assert written["value"] > 0
    text = report.to_text()
    assert "tokens/s" in text
    assert "cudnn cannot compute" in text
    printed = json.loads(json.dumps(report.to_json()))
    assert printed["measures"].keys() == measures.keys()
    assert printed["measure"] == "cpu"
    assert "possible: " in capsys.readouterr().err
    for name in ("ratios", "floors"):
        figure = (tmp_path / f"{name}.svg").read_text()
        assert ElementTree.fromstring(figure).tag.endswith("svg")
        assert "possible" in figure
        assert "impossible" not in figure


def test_of_nothing_that_was_measured_there_is_no_figure(tmp_path: Path) -> None:
    assert SuiteReport("cpu", tmp_path, {"late": {"error": "not started"}}).figures() == {}


def test_time_is_kept(tmp_path: Path) -> None:
    measures = {"slow": ("attention",), "late": ("attention",)}
    report = run_suite("cpu", measures, tmp_path, seconds=0.2, measure_seconds=0.1)
    assert report.found["slow"]["error"] == "given up after 0 seconds"
    report = run_suite("cpu", measures, tmp_path, seconds=0.0, measure_seconds=0.1)
    assert "not started" in report.found["late"]["error"]


def test_settings_that_name_no_measure_are_refused() -> None:
    with pytest.raises(ConfigError, match="no measure train-7b; there are train-124m-compile"):
        GpuBenchmark(only=("train-7b",))
    with pytest.raises(ConfigError, match="no measure train; there are train-float32"):
        CpuBenchmark(only=("train",))
    with pytest.raises(ConfigError, match="positive"):
        GpuBenchmark(seconds=0.0)
