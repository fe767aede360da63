"""Devices: the mesh they form and where each array lies on it. The only place that makes a mesh."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.distributed.hosts import HostsConfig
    from jaxgpt.parallel.mesh import MeshConfig, abstract_mesh, make_mesh, single_device_mesh
    from jaxgpt.parallel.sharding import ShardingRules, on_mesh, parameter_shardings, to_devices
    from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime, describe_devices
else:
    __getattr__, __dir__ = lazy_imports(__name__)
