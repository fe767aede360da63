"""`full-loop`, `loader` and `startup` on the smallest of models."""

import sys
from pathlib import Path
from typing import IO

import pytest

from jaxgpt import train
from jaxgpt.benchmarks import full_loop, startup
from jaxgpt.benchmarks.full_loop import FullLoopBenchmark
from jaxgpt.benchmarks.inputs.shapes import SHAPES
from jaxgpt.benchmarks.loader import LoaderBenchmark
from jaxgpt.benchmarks.startup import StartupBenchmark
from jaxgpt.command_line import run_verb
from jaxgpt.config import replace
from jaxgpt.errors import ConfigError, JaxgptError
from tests.xla_flags import with_devices

pytestmark = pytest.mark.slow


def test_the_loop_is_timed_beside_its_bare_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # As many rows as the tests have devices.
    monkeypatch.setitem(full_loop.SHAPES, "tiny", replace(SHAPES["tiny"], batch_size=8))
    found = FullLoopBenchmark(shape="tiny", steps=4, rounds=2).run()
    assert found.against is not None
    assert found.against.ratio == pytest.approx(found.floor_ratio)
    assert found.spread[0] <= found.value <= found.spread[1]


def test_the_loader_is_timed() -> None:
    found = LoaderBenchmark(
        sequence_length=64, batch_size=4, batches=5, rounds=2, max_bytes=1 << 17
    ).run()
    assert 0 < found.value < found.floor
    assert found.settings["times a step of 600,000 tokens/s"] == found.value / 600_000


def test_a_start_is_timed_to_the_first_record(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
folder = pathlib.Path({str(tmp_path)!r}) / "run"
folder.mkdir()
time.sleep(0.2)
(folder / "metrics.jsonl").write_text("a step")
time.sleep(60)
"""
    seconds = startup._seconds_to_first_step(
        [sys.executable, "-c", code], tmp_path / "run", tmp_path
    )
    assert 0.2 < seconds < 30
    with pytest.raises(JaxgptError, match="before its first step: no such config"):
        startup._seconds_to_first_step(
            [sys.executable, "-c", "raise SystemExit('no such config')"],
            tmp_path / "none",
            tmp_path,
        )


def test_commands_of_starts_are_options_that_training_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shape in ("quickstart", "gpt2-124m"):
        command = startup._command(shape, tmp_path / "no dataset", tmp_path / "run")
        assert command[:3] == [sys.executable, "-m", "jaxgpt.train"]
        with pytest.raises(SystemExit) as stop:
            run_verb(train.main, command[3:])
        # It has read the options and looks for the dataset.
        assert stop.value.code == 2
        assert "no dataset" in capsys.readouterr().err


def test_cold_starts_compile_what_warm_ones_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its four rows do not divide over the eight devices of the tests.
    monkeypatch.setenv("XLA_FLAGS", with_devices(1))
    # Which start is faster on a busy machine, nobody can promise; which one compiles, JAX tells.
    monkeypatch.setenv("JAX_DEBUG_LOG_MODULES", "jax._src.compiler")
    logs: list[Path] = []

    def keep(mode: str) -> IO[str]:
        logs.append(tmp_path / f"{len(logs)}.log")
        return logs[-1].open(mode)

    monkeypatch.setattr(startup.tempfile, "TemporaryFile", keep)
    # The seconds that the starts are compared with: those of Python are measured as JAX's are.
    seconds = startup._median_seconds
    monkeypatch.setattr(startup, "_median_seconds", lambda code: seconds("pass"))
    StartupBenchmark(rounds=1).run()
    cold, warm = (log.read_text().lower() for log in logs)
    assert "compilation cache miss" in cold
    assert warm.count("compilation cache hit") > warm.count("compilation cache miss")


@pytest.mark.parametrize("kind", [FullLoopBenchmark, LoaderBenchmark, StartupBenchmark])
def test_no_rounds_are_no_measure(kind: type) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        kind(rounds=0)
