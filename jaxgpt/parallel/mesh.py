"""The mesh: devices arranged along named axes.

The only file that calls `jax.make_mesh`. Axes are Auto: linen's logical constraints and gradients
through scanned blocks need that, while JAX's default is Explicit.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError

# Outermost first: devices along the last axes talk most, and are the nearest neighbours.
AXES = ("pipeline", "data", "fsdp", "expert", "context", "tensor")


@configclass
class MeshConfig:
    """Number of devices along each axis; one axis may be -1 for all that are left."""

    data: int = -1
    """Number of model copies, each with its share of the batch."""
    fsdp: int = 1
    """Number of batch shares whose devices also split parameters and optimiser state."""
    expert: int = 1
    """Number of batch shares whose devices also divide the experts of a mixture."""
    context: int = 1
    """Number of shares of every row's tokens, for long sequences."""
    tensor: int = 1
    """Number of shares of heads, hidden units and vocabulary."""
    pipeline: int = 1
    """Number of pipeline stages of the layers; needs model.layers to be Pipelined."""

    def __post_init__(self) -> None:
        sizes = tuple(self.sizes.values())
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"{_list(self.sizes)}: each must be at least 1, and at most one of them -1 "
                "(the devices that are left)"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each axis, outermost first."""
        return {name: getattr(self, name) for name in AXES}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange `devices` (default: all) in a mesh with the axes `AXES`.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = _shape(config, len(devices))
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=list(devices)
    )


def abstract_mesh(config: MeshConfig, num_devices: int) -> AbstractMesh:
    """Return the mesh of devices that are not here, for planning.

    Raises:
        ConfigError: as for `make_mesh`.
    """
    types = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(_shape(config, num_devices), AXES, axis_types=types)


def single_device_mesh() -> Mesh:
    """Return a mesh of this process's first device alone."""
    return make_mesh(MeshConfig(data=1), jax.local_devices()[:1])


def _shape(config: MeshConfig, num_devices: int) -> tuple[int, ...]:
    sizes = config.sizes
    given = math.prod(size for size in sizes.values() if size != -1)
    shape = tuple(num_devices // given if size == -1 else size for size in sizes.values())
    if math.prod(shape) != num_devices:
        raise ConfigError(
            f"mesh {_list(sizes)} does not divide the {num_devices} devices here; change "
            "mesh.data (-1 takes what is left)"
        )
    return shape


def _list(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
