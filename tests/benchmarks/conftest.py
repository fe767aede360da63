"""Small arrays for the rates of the device: these tests are about what is done with the rates."""

import pytest

from jaxgpt.benchmarks import hardware_peak


@pytest.fixture(autouse=True)
def _small_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    # 256 MB of random numbers, four times in a measure, take longer than the rest of it.
    monkeypatch.setitem(hardware_peak._COPIED_BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(hardware_peak._SIDES, "cpu", (256,))
