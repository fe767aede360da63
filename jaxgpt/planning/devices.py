"""Devices that a run can be planned for: their data sheets, not measurements."""

import dataclasses
from types import MappingProxyType

from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.runtime.settings import peak_flops_of
from jaxgpt.runtime.target import CompileTarget

GB = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Facts about an NVIDIA chip that XLA's compiler asks for.

    Attributes:
        compute_capability: major and minor version.
        num_multiprocessors: of the card as sold.
        shared_memory_bytes: of a multiprocessor; a block may have 1 KiB less.
        float32_lanes: of a multiprocessor.
        l2_bytes: size of the second-level cache.
        clock_ghz: boost clock.
    """

    compute_capability: tuple[int, int]
    num_multiprocessors: int
    shared_memory_bytes: int
    float32_lanes: int
    l2_bytes: int
    clock_ghz: float


_HOPPER = Chip(
    compute_capability=(9, 0),
    num_multiprocessors=132,
    shared_memory_bytes=228 << 10,
    float32_lanes=128,
    l2_bytes=50 << 20,
    clock_ghz=1.98,
)
_A100 = Chip(
    compute_capability=(8, 0),
    num_multiprocessors=108,
    shared_memory_bytes=164 << 10,
    float32_lanes=64,
    l2_bytes=40 << 20,
    clock_ghz=1.41,
)


def _ada(num_multiprocessors: int, l2_bytes: int, clock_ghz: float) -> Chip:
    return Chip(
        compute_capability=(8, 9),
        num_multiprocessors=num_multiprocessors,
        shared_memory_bytes=100 << 10,
        float32_lanes=128,
        l2_bytes=l2_bytes,
        clock_ghz=clock_ghz,
    )


def _small_ampere(num_multiprocessors: int, clock_ghz: float) -> Chip:
    return Chip(
        compute_capability=(8, 6),
        num_multiprocessors=num_multiprocessors,
        shared_memory_bytes=100 << 10,
        float32_lanes=128,
        l2_bytes=6 << 20,
        clock_ghz=clock_ghz,
    )


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        kind: its name, as `device_kind` would say it.
        memory_bytes: size of its memory.
        link_bytes_per_second: to its neighbours in the same machine, one way (NVLink, or PCIe 4).
        memory_bytes_per_second: bandwidth of its memory.
        chip: facts for the compiler.
    """

    kind: str
    memory_bytes: int
    link_bytes_per_second: float
    memory_bytes_per_second: float
    chip: Chip

    @property
    def target(self) -> CompileTarget:
        """Return what kernels and layouts are chosen by."""
        major, minor = self.chip.compute_capability
        return CompileTarget(platform="gpu", compute_capability=float(f"{major}.{minor}"))

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s."""
        peak = peak_flops_of(self.kind)
        assert peak is not None, "a device here is in the table of peaks"
        return peak


DEVICES = MappingProxyType(
    {
        "h100": Device("H100", 80 * GB, 450e9, 3350e9, _HOPPER),
        "h200": Device("H200", 141 * GB, 450e9, 4800e9, _HOPPER),
        "a100": Device("A100", 80 * GB, 300e9, 2039e9, _A100),
        "a100-40gb": Device("A100", 40 * GB, 300e9, 1555e9, _A100),
        "l40s": Device("L40S", 48 * GB, 32e9, 864e9, _ada(142, 96 << 20, 2.52)),
        "l4": Device("L4", 24 * GB, 32e9, 300e9, _ada(58, 48 << 20, 2.04)),
        "a10g": Device("A10G", 24 * GB, 32e9, 600e9, _small_ampere(80, 1.71)),
        "rtx4090": Device("RTX 4090", 24 * GB, 32e9, 1008e9, _ada(128, 72 << 20, 2.52)),
        "rtx3090": Device("RTX 3090", 24 * GB, 32e9, 936e9, _small_ampere(82, 1.7)),
    }
)


def find_device(name: str) -> Device:
    """Return the device of that name, in any case.

    Raises:
        UsageError: there is none.
    """
    if (known := DEVICES.get(name.lower())) is None:
        raise UsageError(
            f"no device {name!r}{did_you_mean(name.lower(), DEVICES)}; known are "
            f"{', '.join(DEVICES)}"
        )
    return known
