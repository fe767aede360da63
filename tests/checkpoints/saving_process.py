"""One of two processes that save and restore the same arrays; see test_two_processes.py."""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgpt.checkpoints.manager import CheckpointConfig, Checkpoints


def main(address: str, process: int, directory: str) -> None:
    jax.distributed.initialize(address, 2, process)
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
    spec = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=split)
    restored = checkpoints.restore_params(3, {"w": spec})["w"]
    for shard in restored.addressable_shards:
        np.testing.assert_array_equal(shard.data, (np.arange(8) + 3)[shard.index])
    checkpoints.close()
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
