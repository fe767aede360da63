"""One of two processes that save and restore the same arrays; see test_two_processes.py."""

import os
import resource
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.distributed.hosts import HostsConfig, broadcast_from_first, joined_hosts
from jaxgpt.errors import JaxgptError

# Less than a host's part of the large array.
FULL_DISK_BYTES = 100_000


def main(directory: str) -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    fill = jax.jit(lambda step: (jnp.arange(8) + step, step), out_shardings=(split, everywhere))
    checkpoints = Checkpoints(directory, CheckpointConfig(keep_latest=1))
    for step in (1, 2, 3):
        array, count = fill(step)
        checkpoints.save(step, {"w": array}, {"count": count}, {"eval_loss": float(step)})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3], checkpoints.steps()  # the best and the newest
    check_restore(checkpoints, split, 3)
    # Each host hashes its share of the files; what one of them finds, both act on.
    array, count = fill(4)
    checkpoints.save(4, {"w": array}, {"count": count}, {})
    checkpoints.wait()
    if jax.process_index() == 0:
        damage_array(Path(directory) / "4")
    broadcast_from_first("damaged", None)
    assert checkpoints.latest_verified() == 1
    check_restore(checkpoints, split, 1)
    assert checkpoints.abandon_after(0) == [1]
    assert checkpoints.latest_verified() is None
    array, count = fill(1)
    checkpoints.save(1, {"w": array}, {"count": count}, {})
    checkpoints.wait()
    check_restore(checkpoints, split, 1)
    large = jax.jit(lambda: jax.random.bits(jax.random.key(0), (200_000,)), out_shardings=split)()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for unlucky in range(2):
        if jax.process_index() == unlucky:
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK_BYTES, limits[1]))
        check_failure(checkpoints, 5 + unlucky, large)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.save(9, {"w": large}, {}, {})
    checkpoints.wait()
    assert checkpoints.latest() == 9
    checkpoints.close()
    print("done")


def check_failure(checkpoints: Checkpoints, step: int, large: jax.Array) -> None:
    """What fails at one host has failed at both, at once."""
    began = time.monotonic()
    checkpoints.save(step, {"w": large}, {}, {})
    with pytest.raises(JaxgptError, match=f"could not save step {step} .*: File too large"):
        checkpoints.wait()
    assert time.monotonic() - began < 30
    assert checkpoints.latest() == 1


def check_restore(checkpoints: Checkpoints, sharding: NamedSharding, step: int) -> None:
    spec = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=sharding)
    restored = checkpoints.restore_params(step, {"w": spec})["w"]
    for shard in restored.addressable_shards:
        np.testing.assert_array_equal(shard.data, (np.arange(8) + step)[shard.index])


def damage_array(folder: Path) -> None:
    """Change one bit of what the second process has written."""
    path = next((folder / "params" / "ocdbt.process_1" / "d").iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


if __name__ == "__main__":
    config = HostsConfig(coordinator=sys.argv[1], num_hosts=2, host_id=int(sys.argv[2]))
    with joined_hosts(config):
        main(sys.argv[3])
