"""One flipped bit in one device's copy is found, whatever the array, and the device is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxgpt.distributed.replica_check import ReplicaCheck
from jaxgpt.errors import ReplicasDifferError
from jaxgpt.parallel.mesh import MeshConfig, make_mesh

SPECS = {
    "replicated": PartitionSpec(),
    "over_fsdp": PartitionSpec(None, "fsdp"),
    "over_both": PartitionSpec("tensor", "fsdp"),
    "together": PartitionSpec(("fsdp", "tensor"), None),
    "bfloat16": PartitionSpec("fsdp"),
    "count": PartitionSpec(),
    "key": PartitionSpec(),
}


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def check(mesh, tree):
    check = ReplicaCheck(mesh)
    check.check(0, tree)
    return check


@pytest.fixture(scope="module")
def tree(mesh):
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((8, 12), np.float32) for name in list(SPECS)[:4]}
    tree = {
        **values,
        "bfloat16": jnp.asarray(rng.standard_normal(64), jnp.bfloat16),
        "count": np.int32(7),
        "key": jax.random.key(3),
    }
    return {
        name: jax.device_put(value, NamedSharding(mesh, SPECS[name]))
        for name, value in tree.items()
    }


def _flip(array, device_id: int, word: int, bit: int):
    """The same array but for one bit of what one device holds."""
    parts = []
    for shard in array.addressable_shards:
        data = np.array(shard.data)
        if shard.device.id == device_id:
            raw = data.reshape(-1).view(np.uint8)
            raw[word * data.itemsize + bit // 8] ^= 1 << (bit % 8)
        parts.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "key"])
def test_a_flipped_bit_is_named(name, tree, check):
    rng = np.random.default_rng(1)
    for step in range(1, 12):
        device_id = int(rng.integers(8))
        local = tree[name].addressable_shards[0].data
        word, bit = int(rng.integers(local.size)), int(rng.integers(8 * local.dtype.itemsize))
        damaged = {**tree, name: _flip(tree[name], device_id, word, bit)}
        with pytest.raises(ReplicasDifferError) as raised:
            check.check(step, damaged)
        message = str(raised.value)
        assert f"step {step}:" in message
        assert f"{name} on device " in message
        assert f"device {device_id} (host 0" in message
        assert message.count(" on device ") == 1, "only what is damaged is named"
    assert raised.value.exit_code == 75


def test_one_of_many_is_outvoted_and_of_two_both_are_named(tree, check):
    with pytest.raises(ReplicasDifferError, match=r"device 3 \([^)]*\), against 7 others"):
        check.check(20, {**tree, "replicated": _flip(tree["replicated"], 3, 0, 5)})
    damaged = {**tree, "over_both": _flip(tree["over_both"], 3, 0, 5)}
    with pytest.raises(ReplicasDifferError, match=r"device \d \([^)]*\), device \d \("):
        check.check(21, damaged)


def test_words_that_change_places_are_seen(tree, check):
    rows = tree["replicated"]
    parts = []
    for shard in rows.addressable_shards:
        data = np.array(shard.data)
        parts.append(jax.device_put(data[::-1] if shard.device.id == 6 else data, shard.device))
    swapped = jax.make_array_from_single_device_arrays(rows.shape, rows.sharding, parts)
    with pytest.raises(ReplicasDifferError, match=r"device 6 .*against 7 others"):
        check.check(22, {**tree, "replicated": swapped})


def test_equal_copies_pass(tree, check):
    other = jax.tree.map(lambda leaf: leaf, tree) | {"count": tree["count"] + 1}
    check.check(23, other)


def test_arrays_without_copies_are_left_out():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    array = jax.device_put(np.arange(16.0), NamedSharding(mesh, PartitionSpec("fsdp")))
    ReplicaCheck(mesh).check(1, {"split": array})
