"""Comparison of the copies of one array on several devices, which must be equal bit for bit; a
device that computes wrong numbers now and then shows no other sign.

Each device hashes its own data: the sum modulo 2^32 of its words, each mixed with its place. A
change of one word always changes the sum, because the mixing is one-to-one (the finaliser of
MurmurHash3, Appleby 2011).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.distributed.hosts import host_names
from jaxgpt.errors import ReplicasDifferError
from jaxgpt.parallel.sharding import replicated

_SHOWN = 3


class ReplicaCheck:
    """Compares the copies of a tree's arrays. Compiled once, for trees placed alike.

    Args:
        mesh: on which all arrays lie.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._compared: _Compared | None = None
        self._checked_step = -1

    def check(self, step: int, tree: Any) -> None:
        """Wait for the arrays and compare their copies; once a step.

        Raises:
            ReplicasDifferError: names the step, parameter and device.
        """
        if step == self._checked_step:
            return
        if self._compared is None:
            self._compared = _choose_compared(tree, self._mesh)
        if not self._compared.numbers:
            return
        if found := list(_differences(self._compared.hash(tree), self._compared, self._mesh)):
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ReplicasDifferError(
                f"step {step}: copies that must be equal differ between devices: "
                f"{'; '.join(found[:_SHOWN])}{more}. A device computes wrong numbers; nothing is "
                "saved. Run the same command again to continue from the last checkpoint, without "
                "that device if it happens again"
            )
        self._checked_step = step


@dataclass(frozen=True)
class _Compared:
    """The arrays of a tree that have copies, and the compiled function that hashes them.

    Attributes:
        numbers: places among the tree's leaves.
        names, specs: of the arrays.
        hash_words: arrays -> hashes [*mesh, arrays].
    """

    numbers: list[int]
    names: list[str]
    specs: list[PartitionSpec]
    hash_words: Callable[[list[Array]], Array]

    def hash(self, tree: Any) -> np.ndarray:
        """Return the hashes of a tree's arrays, [*mesh, arrays]."""
        leaves = jax.tree.leaves(tree)
        return np.asarray(self.hash_words([_words_of(leaves[number]) for number in self.numbers]))


def _choose_compared(tree: Any, mesh: Mesh) -> _Compared:
    paths_and_leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    # An array that is split over all devices has no copies to compare.
    numbers = [
        number
        for number, (_, leaf) in enumerate(paths_and_leaves)
        if math.prod(mesh.shape[axis] for axis in _axes(leaf.sharding.spec)) < mesh.size
    ]
    chosen = [paths_and_leaves[number] for number in numbers]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in chosen]
    specs = [_spec_of(leaf) for _, leaf in chosen]
    hash_here = jax.shard_map(
        lambda leaves: jnp.stack([_hash(leaf) for leaf in leaves]).reshape(
            *(1,) * len(mesh.axis_names), -1
        ),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=PartitionSpec(*mesh.axis_names),
        check_vma=False,  # That copies are equal is what is asked here.
    )
    return _Compared(numbers, names, specs, jax.jit(hash_here, out_shardings=replicated(mesh)))


def _differences(hashes: np.ndarray, compared: _Compared, mesh: Mesh) -> Iterator[str]:
    """Return a line per array shard whose copies differ, from hashes [*mesh, arrays]."""
    axes = list(mesh.axis_names)
    for number, (name, spec) in enumerate(zip(compared.names, compared.specs, strict=True)):
        split = [axes.index(axis) for axis in _axes(spec)]
        copied = [axis for axis in range(len(axes)) if axis not in split]
        shape = [mesh.devices.shape[axis] for axis in split]

        def grouped(values: np.ndarray, order=(*split, *copied), shape=shape) -> np.ndarray:
            return values.transpose(order).reshape(math.prod(shape), -1)

        devices = grouped(mesh.devices)
        for shard, values in enumerate(grouped(hashes[..., number])):
            if len(set(values.tolist())) > 1:
                yield f"{name} on {_odd_ones(values, devices[shard])}"


def _odd_ones(values: np.ndarray, devices: np.ndarray) -> str:
    """Return the devices in the minority; all of them where no side has more."""
    (common, most), (_, next_most), *_ = Counter(values.tolist()).most_common()
    outvoted = most > next_most
    named = [
        device
        for value, device in zip(values.tolist(), devices, strict=True)
        if value != common or not outvoted
    ]
    hosts = host_names()
    listed = ", ".join(
        f"device {device.id} (host {device.process_index}, {hosts[device.process_index]})"
        for device in named
    )
    return f"{listed}, against {len(devices) - len(named)} others" if outvoted else listed


def _words_of(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _spec_of(leaf: Any) -> PartitionSpec:
    assert isinstance(leaf.sharding, NamedSharding)
    return leaf.sharding.spec


def _axes(spec: PartitionSpec) -> list[str]:
    """Return the mesh axes that a spec names."""
    parts = [part if isinstance(part, tuple) else (part,) for part in spec if part is not None]
    return [axis for part in parts for axis in part]


def _hash(values: Array) -> Array:
    """Return the hash of an array, a uint32 scalar."""
    if values.dtype == jnp.bool_:
        values = values.astype(jnp.uint8)
    size = values.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
    words = jax.lax.bitcast_convert_type(values, unsigned).reshape(-1).astype(jnp.uint32)
    places = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(0x9E3779B9)
    return jnp.sum(_mix(_mix(words) ^ places), dtype=jnp.uint32)


def _mix(words: Array) -> Array:
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
