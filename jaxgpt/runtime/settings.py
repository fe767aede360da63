"""Process-wide settings of JAX and XLA: compile cache, determinism, devices and their peak rates.

`configure_runtime` runs before the first use of a device: XLA reads its flags only once.
"""

import importlib.metadata
import importlib.util
import logging
import os
import pkgutil
import re
from typing import Any, Literal

import jax

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.names.packages import install_advice
from jaxgpt.runtime.compile_cache import use_compile_cache
from jaxgpt.runtime.cpu_memory import computes_on_cpu, keep_freed_memory
from jaxgpt.runtime.target import DETERMINISTIC_FLAG

logger = logging.getLogger(__name__)

# Dense bfloat16 peak in FLOP/s by words of `device_kind`, from NVIDIA's data sheets (no sparsity).
_PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
_CPU_DEVICES_FLAG = "xla_force_host_platform_device_count"


@configclass
class RuntimeConfig:
    """Settings of the process, not of the mathematics."""

    compile_cache: str = "~/.cache/jaxgpt/xla"
    """Folder of compiled programs, shared by all runs; empty: no cache, every start compiles."""
    deterministic: bool = False
    """Deterministic kernels on a GPU; XLA's choice among them is stored in the compile cache, which
    must be set. A CPU is always deterministic."""
    matmul_precision: Literal["default", "highest"] = "default"
    """Precision of float32 products on a GPU of compute capability 8.0 or above: default rounds
    operands to TF32, 10 bits of mantissa; highest keeps float32 and takes several times as long.
    Products of bfloat16 and products on a CPU do not depend on it."""
    max_copied_bytes: int = 4 * 10**9
    """Most bytes per device for copies of weights that are made once per step instead of once per
    micro-batch: in model.compute_dtype, one array per layer, gathered along mesh.fsdp. The
    embedding and the head come first, then all layers, each if it fits; 0: no copies."""
    cpu_devices: int = 1
    """Number of simulated CPU devices where there is no GPU, each with its part of the mesh. One
    per core keeps all cores busy, because XLA runs many operations on a single core. A number of
    devices in XLA_FLAGS overrides it."""
    check_replicas_steps: int | None = None
    """Steps between comparisons of the devices' copies of all parameters, which are also compared
    before each save; None: no comparisons. On GPUs copies are equal only if runtime.deterministic
    is set."""

    def __post_init__(self) -> None:
        if self.check_replicas_steps is not None and self.check_replicas_steps < 1:
            raise ValueError(
                f"check_replicas_steps={self.check_replicas_steps}: at least 1, or None"
            )
        if self.max_copied_bytes < 0:
            raise ValueError(f"max_copied_bytes={self.max_copied_bytes}: at least 0, for no copies")
        if self.cpu_devices < 1:
            raise ValueError(f"cpu_devices={self.cpu_devices}: at least 1")
        if self.deterministic and not self.compile_cache:
            raise ValueError("deterministic=True needs a compile_cache, which keeps kernel choices")


def configure_runtime(config: RuntimeConfig) -> None:
    """Apply the settings; the environment's own `JAX_COMPILATION_CACHE_DIR` wins.

    Raises:
        ConfigError: JAX has started with another number of devices than `cpu_devices`, or
            JAX_PLATFORMS asks for a GPU that this install cannot use.
    """
    check_platforms()
    if computes_on_cpu():
        keep_freed_memory()
    if config.cpu_devices > 1:
        _divide_cpu(config.cpu_devices)
    if config.matmul_precision != "default":
        jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    if config.deterministic:
        _add_flag(f"--{DETERMINISTIC_FLAG}=true")
    if place := os.environ.get("JAX_COMPILATION_CACHE_DIR", config.compile_cache):
        use_compile_cache(place)


def check_platforms() -> None:
    """Check that JAX can use the GPU that JAX_PLATFORMS asks for; JAX itself gives no reason.

    Raises:
        ConfigError: it asks for nothing but a GPU, and JAX is installed for CPUs only.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    named = {name.strip() for name in platforms.split(",")} - {""}
    if named and named <= {"cuda", "gpu"} and not _has_plugin():
        raise ConfigError(
            f"JAX_PLATFORMS={platforms}, but JAX is installed here for CPUs only; for NVIDIA GPUs "
            f"{install_advice('cuda12')} (or cuda13), for the CPU set JAX_PLATFORMS=cpu"
        )


def _has_plugin() -> bool:
    """Return whether a package that brings JAX another kind of device is installed."""
    found = importlib.util.find_spec("jax_plugins")
    modules = pkgutil.iter_modules(found.submodule_search_locations) if found else ()
    return any(modules) or bool(importlib.metadata.entry_points(group="jax_plugins"))


def peak_flops(device: Any) -> float | None:
    """Return peak bfloat16 FLOP/s of an NVIDIA device by its data sheet; None for other devices."""
    return peak_flops_of(device.device_kind)


def peak_flops_of(kind: str) -> float | None:
    """Return peak bfloat16 FLOP/s of the device of this name; None if it is not in the table."""
    matches = [
        name for name in _PEAK_BF16_FLOPS if re.search(rf"\b{name}\b(?! (Laptop|D\b))", kind)
    ]
    return _PEAK_BF16_FLOPS[max(matches, key=len)] if matches else None


def describe_devices() -> dict[str, object]:
    """Return the devices here; the number of visible CPUs changes how XLA splits its loops."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "device_kinds": sorted({device.device_kind for device in devices}),
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "visible_cpus": len(os.sched_getaffinity(0)),
    }


def _divide_cpu(num_devices: int) -> None:
    # JAX would refuse the setting beside the environment's own flag.
    if _CPU_DEVICES_FLAG in os.environ.get("XLA_FLAGS", ""):
        logger.warning(
            "cpu_devices=%d is overridden by %s in XLA_FLAGS", num_devices, _CPU_DEVICES_FLAG
        )
        return
    # JAX refuses to be told again once it runs, even the same number.
    settings: Any = jax.config
    if settings.jax_num_cpu_devices == num_devices:
        return
    try:
        settings.update("jax_num_cpu_devices", num_devices)
    except RuntimeError as error:
        raise ConfigError(
            f"runtime.cpu_devices={num_devices} comes too late: JAX has started in this process, "
            f"with {jax.device_count()} devices; call configure_runtime before anything computes"
        ) from error


def _add_flag(flag: str) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if flag.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
