"""Rates of the device: positive, and of more than nothing."""

from jaxgpt.benchmarks.hardware_peak import copy_rate, matmul_rate, read_rate


def test_rates_are_of_real_work() -> None:
    # Any processor does 0.1 GFLOP/s and 0.1 GB/s, and none a thousand times what a GPU does.
    assert 1e8 < matmul_rate("float32", (128, 256)) < 1e18
    assert 1e8 < matmul_rate("bfloat16", (128,)) < 1e18
    assert 1e8 < copy_rate(1 << 24) < 1e16
    assert 1e8 < read_rate(1 << 24) < 1e16
