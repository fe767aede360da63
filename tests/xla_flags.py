"""XLA_FLAGS of the tests and of the processes that they start.

Compiling is most of what the tests cost, and more than half of it goes into machine code that is
fast. Few properties depend on that: these tests are marked `optimized`, and .ci/run runs them with
JAXGPT_TEST_OPTIMIZED set, which leaves XLA as users have it.
"""

import importlib.metadata
import os

_DEVICES = "--xla_force_host_platform_device_count="


def _list_flags_that_compile_fast() -> list[str]:
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    # From 0.11 on there is one generator of code, and to XLA a flag that it does not know is fatal.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
        # Small programs in 32 parts, each with a compiler of its own, cost a third more.
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
    return flags


def with_devices(num_devices: int | None, optimized: bool = False) -> str:
    """Return the environment's flags with a number of simulated devices.

    Args:
        num_devices: simulated CPU devices; None: no word about them.
        optimized: with XLA's own optimizations, whatever the other tests have.
    """
    fast = _list_flags_that_compile_fast()
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if flag not in fast and not flag.startswith(_DEVICES)]
    if not (optimized or os.environ.get("JAXGPT_TEST_OPTIMIZED")):
        flags += fast
    if num_devices is not None:
        flags.append(f"{_DEVICES}{num_devices}")
    return " ".join(flags)
