"""`DecodingMesh`: devices that share one model while it writes.

Each has its heads, hidden units and part of the vocabulary (Shoeybi et al. 2019, arXiv:1909.08053),
and those heads of the cache; experts lie on devices of their own. All have all rows: a step has a
few tokens, and to divide them would save nothing.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.config import configclass
from jaxgpt.errors import ConfigError
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import ActivationRules, ShardingRules, on_mesh

# Rows are whole on every device.
_WHOLE_ROWS = ActivationRules(batch=(), time=())

OnDevices = Callable[[], AbstractContextManager[Any]]


@configclass
class DecodingMesh:
    """Devices that share one model while it writes."""

    tensor: int = 1
    """Number of shares of heads, hidden units and vocabulary."""
    expert: int = 1
    """Number of shares of the experts of a mixture."""

    def __post_init__(self) -> None:
        for name in ("tensor", "expert"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def build(self) -> Mesh:
        """Return the mesh of this process's first devices.

        Raises:
            ConfigError: there are fewer devices.
        """
        number, devices = self.tensor * self.expert, jax.local_devices()
        if number > len(devices):
            raise ConfigError(
                f"mesh.tensor={self.tensor} and mesh.expert={self.expert} need {number} devices; "
                f"there are {len(devices)} here. Lower them"
            )
        sizes = MeshConfig(data=1, tensor=self.tensor, expert=self.expert)
        return make_mesh(sizes, devices[:number])


ONE_DEVICE = DecodingMesh()


def on_devices(mesh: Mesh, rules: ShardingRules) -> OnDevices:
    """Return what makes the context in which a decoder's programs are traced and run."""
    return functools.partial(on_mesh, mesh, rules, _WHOLE_ROWS)
