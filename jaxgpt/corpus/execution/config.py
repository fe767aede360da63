"""`ExecutorConfig`: place and number of the processes that run tasks."""

import os
from typing import Literal

from jaxgpt.config import configclass
from jaxgpt.corpus.execution.executor import Executor, SerialExecutor
from jaxgpt.corpus.execution.processes import ProcessExecutor
from jaxgpt.corpus.execution.ray_cluster import RayExecutor


@configclass
class ExecutorConfig:
    """Processes or cluster that run tasks; the dataset does not depend on the choice."""

    kind: Literal["serial", "processes", "ray"] = "processes"
    """Place where tasks run. serial: in this process, one after the other. processes: on the cores
    of this machine. ray: on a Ray cluster, or on all cores as Ray sees them."""
    workers: int | None = None
    """Most tasks at once; by default one for each CPU that this process may use. A Ray cluster
    decides for itself."""
    address: str | None = None
    """Address of a Ray cluster: `auto` for the one this machine belongs to; by default a Ray
    of this machine alone is started."""
    when_disk_is_small: Literal["refuse", "warn"] = "refuse"
    """Reaction to a disk that is surely too small for the output: refuse to begin, or warn."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers = {self.workers}; it must be at least 1")
        if self.address is not None and self.kind != "ray":
            raise ValueError(f"address is for kind = 'ray', not {self.kind!r}")

    def build(self) -> Executor:
        """Return the executor; the caller must close it.

        Raises:
            ConfigError: Ray is asked for, and not installed.
            JaxgptError: no cluster answers at `address`.
        """
        num_workers = self.workers or len(os.sched_getaffinity(0))
        executors = {
            "serial": SerialExecutor,
            "processes": lambda: ProcessExecutor(num_workers),
            "ray": lambda: RayExecutor(num_workers, self.address),
        }
        return executors[self.kind]()
