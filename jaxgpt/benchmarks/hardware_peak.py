"""Peak rates of the device in this run: matrix products and copies. Values are like those of
training, because products of zeros draw less power and are faster.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.gpt import Dtype

# Large enough that starting a product costs nothing, small enough for a few seconds on a CPU.
_SIDES = {"cpu": (1024, 2048), "gpu": (4096, 8192)}
_COPIED_BYTES = {"cpu": 1 << 28, "gpu": 1 << 32}
_REPEATS = 5


def matmul_rate(dtype: Dtype, sides: Sequence[int] = ()) -> float:
    """Return operations per second of square products in float32 sums, the best of some.

    Args:
        dtype: of the operands.
        sides: of the squares; empty: as large as the device needs for its full rate.
    """
    backend = jax.default_backend()
    sides = sides or _SIDES.get(backend, (4096,))
    # On a GPU several in a chain, so that what is timed is no single start.
    num_products = 1 if backend == "cpu" else 20
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))

    def rate(side: int) -> float:
        a, b = (
            jax.random.normal(jax.random.key(seed), (side, side), jnp.dtype(dtype))
            for seed in (0, 1)
        )

        def run() -> Any:
            return [product(a, b) for _ in range(num_products)][-1]

        return 2 * side**3 * num_products / _best_seconds(run)

    return max(map(rate, sides))


def copy_rate(num_bytes: int | None = None) -> float:
    """Return the bytes per second that the device reads plus writes, the best of some."""
    num_bytes = num_bytes or _COPIED_BYTES.get(jax.default_backend(), 1 << 28)
    x = jax.random.normal(jax.random.key(0), (num_bytes // 4,), jnp.float32)
    # A new value for each: nothing that a compiler could leave out. In place, since fresh memory
    # has a price of its own.
    scale = jax.jit(lambda x: -x, donate_argnums=0)

    def run() -> Any:
        nonlocal x
        x = scale(x)
        return x

    return 2 * num_bytes / _best_seconds(run)


def read_rate(num_bytes: int | None = None) -> float:
    """Return the bytes per second that the device reads to sum a large array, the best of some."""
    num_bytes = num_bytes or _COPIED_BYTES.get(jax.default_backend(), 1 << 28)
    x = jax.random.normal(jax.random.key(0), (num_bytes // 4,), jnp.float32)
    total = jax.jit(jnp.sum)
    return num_bytes / _best_seconds(lambda: total(x))


def describe_device() -> dict[str, Any]:
    """Return the device, its number of threads and the XLA flags, for a measure's settings."""
    return {
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "threads": len(os.sched_getaffinity(0)),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _best_seconds(run: Callable[[], Any]) -> float:
    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - start)
    return best
