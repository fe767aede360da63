"""The device that programs are compiled for: this process's own, or a card that is not here.

Kernels and layouts depend on it. They ask here and nowhere else, so that a program for a GPU can be
made, and looked at, on a machine without one (`jaxgpt/planning/cross_compile.py`).
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import jax

# XLA's flag for kernels that give the same bits each time.
DETERMINISTIC_FLAG = "xla_gpu_deterministic_ops"


@dataclass(frozen=True, kw_only=True)
class CompileTarget:
    """A kind of device, as far as the choice of kernels and layouts depends on it.

    Attributes:
        platform: "cpu", "gpu" or "tpu".
        compute_capability: of an NVIDIA GPU, such as 9.0; 0 for every other device.
        interprets_kernels: whether kernels for GPUs are interpreted on another device, in tests.
        is_deterministic: whether sums must have one order where the device would not give them one.
    """

    platform: str
    compute_capability: float = 0.0
    interprets_kernels: bool = False
    is_deterministic: bool = False

    @property
    def is_cpu(self) -> bool:
        """Return whether XLA's CPU backend makes the program."""
        return self.platform == "cpu"

    @property
    def multiplies_by_cublas(self) -> bool:
        """Return whether training steps ask XLA for the kernels of cuBLASLt, NVIDIA's library."""
        return self.compute_capability >= 8.0


# JAX traces and compiles again where the value of such a context differs.
_TARGET = jax.make_user_context(None)


def compile_target() -> CompileTarget:
    """Return the target in force: that of `compiling_for`, else this process's first device."""
    return _TARGET.value or _own_target()


@contextlib.contextmanager
def compiling_for(target: CompileTarget) -> Iterator[None]:
    """Let everything that is traced within the context be made for another device."""
    with _TARGET(target):
        yield


@functools.cache
def _own_target() -> CompileTarget:
    device = jax.local_devices()[0]
    # Devices of other makers have no capability, or a name such as gfx90a.
    capability = str(getattr(device, "compute_capability", ""))
    is_number = re.fullmatch(r"\d+(\.\d+)?", capability)
    return CompileTarget(
        platform=jax.default_backend(),
        compute_capability=float(capability) if is_number else 0.0,
        is_deterministic=_asks_for_determinism() and jax.default_backend() == "gpu",
    )


def names_xla_flag(name: str) -> bool:
    """Return whether the user's `XLA_FLAGS` set the flag, to whatever value."""
    return re.search(rf"(?<!\S)--{name}(?![^\s=])", os.environ.get("XLA_FLAGS", "")) is not None


def _asks_for_determinism() -> bool:
    """Return whether XLA's flag is set, by `runtime.deterministic` or by the user."""
    flags = os.environ.get("XLA_FLAGS", "")
    return (
        re.search(rf"--{DETERMINISTIC_FLAG}(?!\S)|--{DETERMINISTIC_FLAG}=(true|1)", flags)
        is not None
    )
