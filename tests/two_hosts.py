"""Two processes on this machine that are the hosts of one run, four simulated devices each."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.tiny import REPOSITORY, environment

TRAIN = ("-m", "jaxgpt.train")
CONFIG = """
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset
from jaxgpt.runs.config import EvaluationConfig, TrainConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.gpt import GptConfig
from jaxgpt.training.metrics import LoggingConfig
from jaxgpt.training.schedule import Cosine

config = TrainConfig(
    model=GptConfig(
        num_layers=2,
        d_model=16,
        attention=GroupedQueryAttention(num_heads=2, num_kv_heads=2),
        feed_forward=SwiGlu(hidden=32),
    ),
    data=DataConfig(datasets=(WeightedDataset(path={dataset!r}),)),
    batch=BatchConfig(sequence_length=16, global_batch_size=8),
    schedule=Cosine(num_steps=12, peak_learning_rate=1e-2),
    evaluation=EvaluationConfig(every_steps=6, max_tokens=256),
    checkpoint=CheckpointConfig(every_steps=6),
    logging=LoggingConfig(every_steps=1, tensorboard=False, progress_seconds=0.0),
)
"""


def write_small_config(path: Path, dataset: Path) -> Path:
    """A config that compiles fast: 12 steps, saved and evaluated at 6 and 12."""
    path.write_text(CONFIG.format(dataset=str(dataset)))
    return path


def free_port() -> int:
    """A port with a free one after it, below those that systems give to outgoing connections."""
    for port in range(20_000 + os.getpid() % 5_000 * 2, 32_000, 2):
        if _are_free(port):
            return port
    raise AssertionError("no free port")


def slurm_variables(num_hosts: int = 2) -> list[dict[str, str]]:
    """What `srun` sets for a step with one process a node."""
    job = next(job for job in range(os.getpid(), 10**9) if _are_free(29_400 + 2 * (job % 1000)))
    return [
        {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": "localhost,other[1-3]",
            "SLURM_STEP_NUM_NODES": str(num_hosts),
            "SLURM_STEP_NUM_TASKS": str(num_hosts),
            "SLURM_PROCID": str(host),
            "SLURM_LOCALID": "0",
        }
        for host in range(num_hosts)
    ]


def open_mpi_variables(num_hosts: int = 2) -> list[dict[str, str]]:
    """What `mpirun` sets for one process a node."""
    job = next(job for job in range(os.getpid(), 10**9) if _are_free(29_400 + 2 * (job % 1000)))
    return [
        {
            "OMPI_MCA_orte_hnp_uri": f"{job << 12}.0;tcp://127.0.0.1,10.9.9.9:34911",
            "OMPI_COMM_WORLD_SIZE": str(num_hosts),
            "OMPI_COMM_WORLD_RANK": str(host),
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        }
        for host in range(num_hosts)
    ]


def jobset_variables(num_hosts: int = 2) -> list[dict[str, str]]:
    """What docs/launch/jobset.yaml and Kubernetes set, but for the name of pod 0's address."""
    return [
        {
            "JOBSET_NAME": "gpt",
            "REPLICATED_JOB_NAME": "hosts",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(num_hosts),
            "JOB_COMPLETION_INDEX": str(host),
        }
        for port in [free_port()]
        for host in range(num_hosts)
    ]


class Hosts:
    """The processes of one run, started together; those still alive are killed at the end.

    Args:
        arguments: of all.
        cache: the compile cache.
        programs: what Python runs at each.
        own: more arguments of each.
        variables: of a launcher; None: flags say who is who.
        heartbeat_seconds: after which a silent host is lost.
        num_devices: of each.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cache: Path,
        *,
        programs: Sequence[Sequence[str]] = (TRAIN, TRAIN),
        own: Sequence[Sequence[str]] = ((), ()),
        variables: Sequence[Mapping[str, str]] = ({}, {}),
        heartbeat_seconds: float = 15,
        num_devices: int = 4,
    ) -> None:
        port = free_port()
        self.processes = []
        for host, program in enumerate(programs):
            flags = ["--hosts.heartbeat-seconds", str(heartbeat_seconds)]
            if not variables[host]:
                flags += ["--hosts.coordinator", f"127.0.0.1:{port}"]
                flags += ["--hosts.num-hosts", str(len(programs)), "--hosts.host-id", str(host)]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *arguments, *flags, *own[host]],
                    cwd=REPOSITORY,
                    env={**environment(cache, num_devices), **variables[host]},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def end_of(self, host: int, timeout: float = 300) -> tuple[int, str, str]:
        """Wait for one; its exit code, stdout and stderr."""
        output, errors = self.processes[host].communicate(timeout=timeout)
        return self.processes[host].returncode, output, errors

    def ends(self) -> list[tuple[int, str, str]]:
        """Wait for all."""
        return [self.end_of(host) for host in range(len(self.processes))]

    def signal_when(
        self, condition: Callable[[], bool], host: int, number: signal.Signals
    ) -> float:
        """Send one host a signal once a condition holds; `time.monotonic()` of that moment."""
        deadline = time.monotonic() + 300
        while not condition() and time.monotonic() < deadline:
            assert all(process.poll() is None for process in self.processes), self.ends()
            time.sleep(0.05)
        self.processes[host].send_signal(number)
        return time.monotonic()


def num_lines(path: Path) -> int:
    """Lines of a file that may not exist yet."""
    return path.read_text().count("\n") if path.exists() else 0


def _are_free(port: int) -> bool:
    try:
        for number in (port, port + 1):
            with socket.create_server(("127.0.0.1", number)):
                pass
    except OSError:
        return False
    return True
