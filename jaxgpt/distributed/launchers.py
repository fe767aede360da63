"""Place of this process among the hosts, as a launcher's environment variables tell it.

Slurm (`srun`), Open MPI (`mpirun`), Kubernetes JobSet, or the three variables that JAX's own tools
use. The rule is one process per host; several on one node take one device each. The network is not
used, and a missing variable means "not launched by this".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxgpt.errors import ConfigError

# Below the range from which systems give ports to outgoing connections. JAX's own service listens
# at the port after ours.
_FIRST_PORT = 29_400
_NUM_PORTS = 1_000


@dataclass(frozen=True, kw_only=True)
class HostPlacement:
    """One process among those of a run.

    Attributes:
        coordinator: HOST:PORT at which host 0 listens.
        num_hosts: processes of the run.
        host_id: this one's number, from 0.
        local_id: its number on its node where several run there, else None.
        launcher: its name, for messages.
    """

    coordinator: str
    num_hosts: int
    host_id: int
    local_id: int | None = None
    launcher: str


def detect_placement(environment: Mapping[str, str]) -> HostPlacement | None:
    """Return the placement that the launcher gives, or None for a process on its own.

    Raises:
        ConfigError: the launcher's variables are there, but not all, or not numbers.
    """
    for detect in (_from_jax_variables, _from_jobset, _from_slurm, _from_open_mpi):
        if placement := detect(environment):
            return placement
    return None


def _from_jax_variables(environment: Mapping[str, str]) -> HostPlacement | None:
    if "JAX_NUM_PROCESSES" not in environment or "JAX_PROCESS_ID" not in environment:
        return None
    launcher = "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"
    return HostPlacement(
        coordinator=_text(environment, "JAX_COORDINATOR_ADDRESS", launcher),
        num_hosts=_number(environment, "JAX_NUM_PROCESSES", launcher),
        host_id=_number(environment, "JAX_PROCESS_ID", launcher),
        launcher=launcher,
    )


def _from_jobset(environment: Mapping[str, str]) -> HostPlacement | None:
    """Return the placement of a pod of an indexed job in a JobSet; pod 0 is found by name."""
    if "JOBSET_NAME" not in environment or "JOB_COMPLETION_INDEX" not in environment:
        return None
    launcher = "Kubernetes JobSet"
    name = environment["JOBSET_NAME"]
    job = _text(environment, "REPLICATED_JOB_NAME", launcher)
    return HostPlacement(
        coordinator=environment.get("JAX_COORDINATOR_ADDRESS")
        or f"{name}-{job}-0-0.{name}:{_FIRST_PORT}",
        num_hosts=_number(environment, "JAX_NUM_PROCESSES", launcher),
        host_id=_number(environment, "JOB_COMPLETION_INDEX", launcher),
        launcher=launcher,
    )


def _from_slurm(environment: Mapping[str, str]) -> HostPlacement | None:
    # The variables of the step, not of the job: a command in a batch script that is not started
    # with srun runs once, and must not wait for others.
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return None
    launcher = "Slurm"
    first = _first_node(_text(environment, "SLURM_STEP_NODELIST", launcher))
    step = environment.get("SLURM_STEP_ID", "0")
    offset = _number(environment, "SLURM_JOB_ID", launcher) + (int(step) if step.isdigit() else 0)
    num_tasks = _number(environment, "SLURM_STEP_NUM_TASKS", launcher)
    num_nodes = _number(environment, "SLURM_STEP_NUM_NODES", launcher)
    return HostPlacement(
        coordinator=f"{first}:{_port(offset)}",
        num_hosts=num_tasks,
        host_id=_number(environment, "SLURM_PROCID", launcher),
        local_id=_number(environment, "SLURM_LOCALID", launcher) if num_tasks > num_nodes else None,
        launcher=launcher,
    )


def _from_open_mpi(environment: Mapping[str, str]) -> HostPlacement | None:
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) == 1:
        return None
    launcher = "Open MPI"
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is None:
        # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911": the node on which mpirun was called.
        uri = _text(environment, "OMPI_MCA_orte_hnp_uri", launcher)
        match = re.match(r"(\d+)\.\d+;tcp6?://\[?([^,\]]+?)(?:[,\]]|:\d+$)", uri)
        if match is None:
            raise ConfigError(
                f"no address in OMPI_MCA_orte_hnp_uri={uri}; give JAX_COORDINATOR_ADDRESS"
            )
        host = f"[{match[2]}]" if ":" in match[2] else match[2]
        coordinator = f"{host}:{_port(int(match[1]) >> 12)}"
    several = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1")) > 1
    return HostPlacement(
        coordinator=coordinator,
        num_hosts=_number(environment, "OMPI_COMM_WORLD_SIZE", launcher),
        host_id=_number(environment, "OMPI_COMM_WORLD_RANK", launcher),
        local_id=_number(environment, "OMPI_COMM_WORLD_LOCAL_RANK", launcher) if several else None,
        launcher=launcher,
    )


def _first_node(nodes: str) -> str:
    """Return the first node of a list: `node[003-004,7],b1` -> `node003`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if match is None:
        raise ConfigError(f"no node in SLURM_STEP_NODELIST={nodes}; give --hosts.coordinator")
    return match[1] + (match[2] or "")


def _port(offset: int) -> int:
    return _FIRST_PORT + 2 * (offset % _NUM_PORTS)


def _text(environment: Mapping[str, str], name: str, launcher: str) -> str:
    if not environment.get(name):
        raise ConfigError(
            f"started by {launcher}, but {name} is not set; set it, or give --hosts.coordinator, "
            "--hosts.num-hosts and --hosts.host-id"
        )
    return environment[name]


def _number(environment: Mapping[str, str], name: str, launcher: str) -> int:
    value = _text(environment, name, launcher)
    if not value.isdigit():
        raise ConfigError(f"started by {launcher}, but {name}={value} is not a number")
    return int(value)
