"""Stop on several hosts: a signal to one of them stops all, after the same step.

Before each step every host contributes the signal it has received, if any, to a maximum over the
devices. The result is read one step later, when it is ready, so that no host waits.
"""

import signal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.parallel.sharding import replicated
from jaxgpt.stop_signal import StopSignal


class AgreedStop(StopSignal):
    """A `StopSignal` whose `received` changes at all hosts before the same step.

    Args:
        own: what receives this process's signals.
        mesh: of all devices.
    """

    def __init__(self, own: StopSignal, mesh: Mesh) -> None:
        super().__init__()
        self._own = own
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._maximum = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._num_devices = mesh.size
        self._asked: jax.Array | None = None

    def agree(self) -> None:
        """Read the agreement of the last step, and start the next one."""
        if self._asked is not None and (number := int(self._asked)):
            self.received = signal.Signals(number)
        own = 0 if self._own.received is None else int(self._own.received)
        flags = jax.make_array_from_callback(
            (self._num_devices,), self._sharding, lambda index: np.full((1,), own, np.int32)
        )
        self._asked = self._maximum(flags)


def stop_of_all_hosts(own: StopSignal, mesh: Mesh) -> StopSignal:
    """Return `own` for one process, else a stop signal that all hosts agree on."""
    return own if jax.process_count() == 1 else AgreedStop(own, mesh)
