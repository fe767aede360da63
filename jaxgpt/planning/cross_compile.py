"""Programs for NVIDIA GPUs, made by XLA's own GPU compiler on a machine without one.

The plugin that JAX uses on GPUs (extra `gpu-compile`) brings the compiler; it needs no driver, CUDA
toolkit or cuDNN. XLA cannot try kernels on the card, so it takes its default tiles, and cuDNN's
graphs are built on the card: whether cuDNN accepts them, and its workspace, is not known here.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies

from jaxgpt.errors import ConfigError
from jaxgpt.planning.devices import Device
from jaxgpt.runtime.target import DETERMINISTIC_FLAG, compiling_for

logger = logging.getLogger(__name__)
# Trying kernels needs the card.
COMPILER_OPTIONS: dict[str, Any] = {"xla_gpu_autotune_level": 0}
_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
# Where bits must be the same each time, XLA of jax 0.11 takes no kernel of a product from Triton.
# On the card it finds cuBLAS' instead by trying. Without the card it ends with an error, unless
# products are kept from Triton.
_WITHOUT_TRITON: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
_DETERMINISTIC_OPTIONS: dict[str, Any] = {
    DETERMINISTIC_FLAG: True,
    **(_WITHOUT_TRITON if jax.__version_info__ >= (0, 11) else {}),
}
# XLA's error where it knows no kernel for a product.
_NO_KERNEL = "No supported config found"
# Version of cuDNN that JAX is told of: 9.28, which JAX 0.10 is released with.
_CUDNN = (9, 28)


def has_gpu_compiler() -> bool:
    """Return whether the plugin is installed."""
    with contextlib.suppress(ModuleNotFoundError):
        return any(importlib.util.find_spec(name) is not None for name in _PLUGINS)
    return False


def compile_only_devices(device: Device, num_devices: int) -> Sequence[Any]:
    """Return devices that programs can be compiled for, and not run on.

    Raises:
        ConfigError: the plugin is not installed, or belongs to another version of JAX.
    """
    if not has_gpu_compiler():
        raise ConfigError(
            "XLA's GPU compiler is not installed; install it with pip install -e '.[gpu-compile]'"
        )
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology=f"1x1x{num_devices}",
            target_config=_describe(device),
        )
    except Exception as error:
        raise ConfigError(
            f"XLA's GPU compiler does not start ({_first_line(error)}); its packages "
            f"jax-cuda12-plugin and jax-cuda12-pjrt must be of JAX's version, {jax.__version__}"
        ) from error
    return topology.devices


def compiler_options(is_deterministic: bool) -> dict[str, Any]:
    """Return XLA's options for a card that is not here, with `runtime.deterministic` or without."""
    return COMPILER_OPTIONS | (_DETERMINISTIC_OPTIONS if is_deterministic else {})


def compile_lowered(lowered: jax.stages.Lowered, is_deterministic: bool) -> jax.stages.Compiled:
    """Compile a program for a card that is not here.

    Where XLA of jax 0.11 has no tile of Triton for a product, it tries cuBLAS on the card, and ends
    with an error without one. Then cuBLAS has all products of the program.

    Args:
        lowered: the program, lowered within `compiling_on`.
        is_deterministic: whether it has the bits of `runtime.deterministic`.
    """
    options = compiler_options(is_deterministic)
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if _NO_KERNEL not in str(error):
            raise
    logger.warning(
        "without the card XLA knows no Triton kernel for one of the products; the program is "
        "compiled with cuBLAS for all of them"
    )
    return lowered.compile(compiler_options=options | _WITHOUT_TRITON)


@contextlib.contextmanager
def compiling_on(device: Device, is_deterministic: bool = False) -> Iterator[None]:
    """Let kernels and layouts within the context be chosen for `device`."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    major, minor = device.chip.compute_capability

    def parse(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    # JAX asks the process's own GPU before it emits a call of cuDNN.
    answers = {
        "check_cudnn_version": lambda: _CUDNN[0] * 10_000 + _CUDNN[1] * 100,
        "check_compute_capability": lambda text: (major, minor) >= parse(text),
        "is_cuda_compute_capability_equal": lambda text: (major, minor) == parse(text),
    }
    target = dataclasses.replace(device.target, is_deterministic=is_deterministic)
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(cudnn, name, answer))
        # Pallas of JAX 0.11 asks it, too, where its table lacks a card, such as RTX 3090.
        with contextlib.suppress(ModuleNotFoundError):
            pallas = importlib.import_module("jax._src.pallas.triton.gpu_info")
            if hasattr(pallas, "_get_device_arch_name"):
                answer = mock.patch.object(
                    pallas, "_get_device_arch_name", return_value=f"{major}.{minor}"
                )
                stack.enter_context(answer)
        stack.enter_context(compiling_for(target))
        yield


def _describe(device: Device) -> str:
    """Return XLA's GpuTargetConfigProto of a card, as text."""
    chip = device.chip
    major, minor = chip.compute_capability
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          shared_memory_per_block: {48 << 10}
          shared_memory_per_core: {chip.shared_memory_bytes}
          shared_memory_per_block_optin: {chip.shared_memory_bytes - 1024}
          core_count: {chip.num_multiprocessors} fpus_per_core: {chip.float32_lanes}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {round(device.memory_bytes_per_second)}
          l2_cache_size: {chip.l2_bytes} clock_rate_ghz: {chip.clock_ghz}
          device_memory_size: {device.memory_bytes}
          cuda_compute_capability {{ major: {major} minor: {minor} }}
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}
        runtime_version {{ major: 12 minor: 9 }}
        device_description_str: "NVIDIA {device.kind}"
    """


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
