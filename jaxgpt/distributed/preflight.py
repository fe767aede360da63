"""Checks that all hosts must pass before the first step; they take seconds and name the host.

A host with another config, dataset, version or number of devices does not fail by itself: it
compiles another program, and all hosts wait for each other forever. A wrong clock makes logs and
file times wrong. The last check is a sum over all devices, whose bandwidth is measured.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.distributed.hosts import abandon, gather, host_names, settings
from jaxgpt.errors import JaxgptError, MismatchError, UnfinishedError
from jaxgpt.names.dotted_paths import find_differences
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import replicated

logger = logging.getLogger(__name__)

_SHOWN = 5
_COLLECTIVE_SECONDS = 120.0
_COLLECTIVE_BYTES = {"cpu": 1 << 20}
_DEFAULT_COLLECTIVE_BYTES = 64 << 20


def preflight(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Run all checks of this file; a process on its own passes.

    Returns:
        The measurements: `hosts` and `all_reduce_bytes_per_second`; empty for one process.

    Raises:
        MismatchError: hosts differ; a host and both values are named.
        JaxgptError: a sum over the devices is wrong.
    """
    names = host_names()
    if len(names) == 1:
        return {}
    check_equal_on_hosts(facts)
    check_clocks()
    check_devices()
    bandwidth = measure_collective(make_mesh(MeshConfig()))
    logger.info(
        "preflight: %d hosts agree; all-reduce over %d devices at %.2f GB/s",
        len(names),
        jax.device_count(),
        bandwidth / 1e9,
    )
    return {"hosts": names, "all_reduce_bytes_per_second": round(bandwidth)}


def check_equal_on_hosts(facts: Mapping[str, Any]) -> None:
    """Refuse hosts that are about to compute different programs. No device is used.

    Args:
        facts: plain JSON values by what they describe ("config", "dataset"), equal everywhere.

    Raises:
        MismatchError: one host's facts differ from host 0's; both values are shown.
    """
    names = host_names()
    if len(names) == 1:
        return
    digests = gather("the preflight", {name: _digest(value) for name, value in facts.items()})
    differing = [host for host, digest in enumerate(digests) if digest != digests[0]]
    if not differing:
        return
    # Values travel only where they are needed: there may be many hosts.
    host = differing[0]
    asked = [name for name in facts if digests[host].get(name) != digests[0].get(name)]
    values = gather("what differs", {name: facts.get(name) for name in asked})
    lines = [
        f"{name}: {there!r} there, {first!r} at host 0"
        for name, first, there in find_differences(values[0], values[host])
    ]
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    others = f"; so do {len(differing) - 1} other hosts" if len(differing) > 1 else ""
    raise MismatchError(
        f"host {host} ({names[host]}) differs from host 0 ({names[0]}) in "
        f"{', '.join(asked)}: {'; '.join(lines[:_SHOWN])}{more}{others}. Start all hosts with the "
        "same command, data and versions"
    )


def check_clocks() -> None:
    """Refuse hosts whose clocks are too far from host 0's.

    Raises:
        MismatchError: the host is named, and by how much it is off.
    """
    names, allowed = host_names(), settings().max_clock_skew_seconds
    if len(names) == 1:
        return
    gather("its clock", None)  # All are released within milliseconds of each other.
    times = gather("its clock", time.time())
    skews = [now - times[0] for now in times]
    worst = max(range(len(names)), key=lambda host: abs(skews[host]))
    if abs(skews[worst]) > allowed:
        raise MismatchError(
            f"the clock of host {worst} ({names[worst]}) is {abs(skews[worst]):.1f} s "
            f"{'ahead of' if skews[worst] > 0 else 'behind'} that of host 0 ({names[0]}), more "
            f"than {allowed:g} s; set it, or raise --hosts.max-clock-skew-seconds"
        )


def check_devices() -> None:
    """Refuse hosts with different numbers or kinds of devices.

    Raises:
        MismatchError: both sides are named.
    """
    names = host_names()
    if len(names) == 1:
        return
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    found = gather("its devices", f"{jax.local_device_count()} x {', '.join(kinds)}")
    for host, devices in enumerate(found):
        if devices != found[0]:
            raise MismatchError(
                f"host {host} ({names[host]}) has {devices}, host 0 ({names[0]}) has {found[0]}; "
                "all hosts need the same devices. Is one broken, or held by another process?"
            )


def measure_collective(mesh: Mesh) -> float:
    """Sum an array over all devices, check the sum, and return the bandwidth in bytes/s.

    The bandwidth is that of a ring: 2 (n - 1) / n of the array pass through each device, by the
    time of the fastest of three sums.

    Raises:
        JaxgptError: the sum is wrong.
    """
    platform, n = mesh.devices.flat[0].platform, mesh.size
    num_values = _COLLECTIVE_BYTES.get(platform, _DEFAULT_COLLECTIVE_BYTES) // 4
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = replicated(mesh)
    make = jax.jit(
        lambda: jnp.broadcast_to(jnp.arange(1.0, n + 1)[:, None], (n, num_values)),
        out_shardings=split,
    )
    add = jax.jit(lambda parts: jnp.sum(parts, axis=0), out_shardings=whole)
    with _limited(
        f"the first sum over {n} devices took more than {_COLLECTIVE_SECONDS:g} s: the hosts reach "
        "each other, but their devices do not. Check the firewall and which network is used "
        "(NCCL_SOCKET_IFNAME), with NCCL_DEBUG=INFO"
    ):
        parts = make()
        total = add(parts)
        if not np.all(np.asarray(total) == n * (n + 1) / 2):
            raise JaxgptError(
                f"a sum over {n} devices is wrong; do not train on them before the cause is known"
            )
        seconds = min(_seconds_of(lambda: jax.block_until_ready(add(parts))) for _ in range(3))
    return 2 * (n - 1) / n * 4 * num_values / seconds


def _seconds_of(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _limited(message: str) -> Iterator[None]:
    """End all hosts if the body takes too long: a collective that waits cannot be interrupted."""
    timer = threading.Timer(_COLLECTIVE_SECONDS, abandon, (UnfinishedError.exit_code, message))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
