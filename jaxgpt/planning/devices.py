"""Devices that a run can be planned for: their data sheets, not measurements."""

import dataclasses
from types import MappingProxyType

from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.parallel.runtime import peak_flops_of

GB = 10**9


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        kind: its name, as `device_kind` would say it.
        memory_bytes: size of its memory.
        link_bytes_per_second: to its neighbours in the same machine, one way (NVLink, or PCIe 4).
    """

    kind: str
    memory_bytes: int
    link_bytes_per_second: float

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s."""
        peak = peak_flops_of(self.kind)
        assert peak is not None, "a device here is in the table of peaks"
        return peak


DEVICES = MappingProxyType(
    {
        "h100": Device("H100", 80 * GB, 450e9),
        "h200": Device("H200", 141 * GB, 450e9),
        "a100": Device("A100", 80 * GB, 300e9),
        "a100-40gb": Device("A100", 40 * GB, 300e9),
        "l40s": Device("L40S", 48 * GB, 32e9),
        "l4": Device("L4", 24 * GB, 32e9),
        "a10g": Device("A10G", 24 * GB, 32e9),
        "rtx4090": Device("RTX 4090", 24 * GB, 32e9),
        "rtx3090": Device("RTX 3090", 24 * GB, 32e9),
    }
)


def find_device(name: str) -> Device:
    """The device of that name, in any case.

    Raises:
        UsageError: there is none.
    """
    if (known := DEVICES.get(name.lower())) is None:
        raise UsageError(
            f"no device {name!r}{did_you_mean(name.lower(), DEVICES)}; known are "
            f"{', '.join(DEVICES)}"
        )
    return known
