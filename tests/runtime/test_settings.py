"""Settings of the process take effect in a process of their own."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers.matmul import project
from jaxgpt.runtime.settings import RuntimeConfig, check_platforms, configure_runtime
from tests.tiny import REPOSITORY

_COUNT = """
import jax
from jaxgpt.errors import ConfigError
from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime
configure_runtime(RuntimeConfig(cpu_devices=3, compile_cache=""))
configure_runtime(RuntimeConfig(cpu_devices=3, compile_cache=""))
count = jax.device_count()
configure_runtime(RuntimeConfig(cpu_devices=3, compile_cache=""))
print(count)
"""


@pytest.mark.parametrize(
    ("flags", "num_devices"), [("", "3"), ("--xla_force_host_platform_device_count=2", "2")]
)
def test_a_processor_is_divided_unless_the_environment_says_how(flags, num_devices):
    result = subprocess.run(
        [sys.executable, "-c", _COUNT],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == [num_devices], result.stderr
    assert ("cpu_devices=3 is overridden by" in result.stderr) == bool(flags)


def test_a_division_after_jax_has_started_is_refused(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    num_devices = jax.device_count()
    with pytest.raises(ConfigError, match=f"too late: JAX has started .* {num_devices} devices"):
        configure_runtime(RuntimeConfig(cpu_devices=num_devices + 1))


def test_no_devices_are_refused():
    with pytest.raises(ConfigError, match="cpu_devices=0: at least 1"):
        RuntimeConfig(cpu_devices=0)


@pytest.mark.parametrize("platforms", ["cuda", "gpu", "cuda,gpu"])
def test_a_gpu_that_the_install_cannot_use_is_refused_with_the_remedy(monkeypatch, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("jaxgpt.runtime.settings._has_plugin", lambda: False)
    with pytest.raises(ConfigError, match=rf"JAX_PLATFORMS={platforms}.*pip install -e '.\[cuda12"):
        configure_runtime(RuntimeConfig(compile_cache=""))
    monkeypatch.setattr("jaxgpt.runtime.settings._has_plugin", lambda: True)
    check_platforms()


@pytest.mark.parametrize("platforms", ["", "cpu", "cuda,cpu"])
def test_where_the_processor_may_compute_no_gpu_is_asked_for(monkeypatch, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("jaxgpt.runtime.settings._has_plugin", lambda: False)
    check_platforms()


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_float32_products_are_not_rounded_to_tf32_if_that_is_asked_for(precision) -> None:
    own = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", None)
    try:
        configure_runtime(RuntimeConfig(matmul_precision=precision))
        text = jax.jit(project).lower(jnp.ones((2, 3)), jnp.ones((3, 4))).as_text()
    finally:
        jax.config.update("jax_default_matmul_precision", own)
    assert ("precision = [HIGHEST, HIGHEST]" in text) == (precision == "highest")
    assert "dot_general" in text
