"""What the device that a program is compiled for says of itself, and what the user's flags say."""

import pytest

from jaxgpt.runtime.target import CompileTarget, names_xla_flag


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [("cpu", 0.0, False), ("tpu", 0.0, False), ("gpu", 0.0, False), ("gpu", 7.5, False)]
    + [("gpu", capability, True) for capability in (8.0, 8.6, 9.0, 10.0)],
)
def test_cublas_multiplies_on_nvidia_gpus_of_capability_8(
    platform: str, capability: float, expected: bool
) -> None:
    target = CompileTarget(platform=platform, compute_capability=capability)
    assert target.multiplies_by_cublas == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", False),
        ("--xla_gpu_some", True),
        ("--xla_dump_to=/x --xla_gpu_some=false", True),
        ("--xla_gpu_some_other=true", False),
        ("--xla_dump_to=--xla_gpu_some", False),
    ],
)
def test_a_flag_of_the_user_is_found_by_its_whole_name(
    flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert names_xla_flag("xla_gpu_some") == expected
