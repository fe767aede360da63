"""`flags`: what XLA does not know ends a child, never the measure; what it knows gets a ratio."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from jaxgpt.benchmarks import xla_flags
from jaxgpt.benchmarks.train_step import TrainStepBenchmark
from jaxgpt.benchmarks.xla_flags import FlagsBenchmark
from jaxgpt.errors import ConfigError, JaxgptError, UsageError
from tests.xla_flags import with_devices

pytestmark = pytest.mark.slow

KNOWN = "--xla_cpu_enable_fast_min_max=true"
UNKNOWN = "--xla_cpu_no_such_flag_as_this=true"


@pytest.fixture(autouse=True)
def _one_device(monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", with_devices(1))


def test_an_unknown_flag_is_dropped_with_a_line_and_others_are_measured(capsys) -> None:
    benchmark = FlagsBenchmark(flags=(UNKNOWN, KNOWN), shape="tiny", steps=2, rounds=2)
    found = benchmark.run()
    assert found.settings["fastest"] == KNOWN
    assert found.settings[UNKNOWN] == "dropped: unknown to this XLA"
    assert f"{UNKNOWN}: unknown to this XLA" in capsys.readouterr().err
    ratio = float(found.settings[KNOWN].split()[0])
    assert ratio == pytest.approx(found.floor_ratio, abs=1e-3)
    assert found.floor > 0


def test_what_is_no_flag_and_a_list_without_a_known_one_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="not an XLA flag"):
        FlagsBenchmark(flags=("xla_cpu_use_xnnpack",))

    # As the processes of the test above do.
    @contextlib.contextmanager
    def start(flag: str, step: TrainStepBenchmark) -> Iterator[SimpleNamespace]:
        if flag == UNKNOWN:
            raise JaxgptError("unknown to this XLA")
        yield SimpleNamespace(losses=[1.0])

    monkeypatch.setattr(xla_flags, "_started", start)
    with pytest.raises(UsageError, match="none of the flags"):
        FlagsBenchmark(flags=(UNKNOWN,), shape="tiny", steps=1, rounds=1).run()
