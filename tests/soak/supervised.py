"""Runs with faults under `jaxgpt supervise`, on as many hosts as there are plans of faults.

All hosts are processes of this machine, two simulated devices each. Each has its own plan: see
faulty_run.py.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import REPOSITORY, environment
from tests.two_hosts import free_port

DEVICES_A_HOST = 2
_HEARTBEAT_SECONDS = 6
# A host that is started again may have to wait until a stopped one goes on.
_START_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """How a run went: its folder, restarts by host, seconds by the clock of who waited."""

    run_dir: Path
    restarts: tuple[int, ...]
    seconds: float


def run_to_the_end(
    config: Path,
    run_dir: Path,
    plans: Sequence[Mapping[int, str]] = ({},),
    leave_out: Sequence[int] = (),
) -> Outcome:
    """Train with faults until it is done.

    Args:
        config: a config file.
        run_dir: its folder; plans, logs and the compile cache lie beside.
        plans: for each host, kinds of faults by the batch at whose reading they happen.
        leave_out: batches that are not in the data.

    Raises:
        SystemExit: a host did not end with 0; its log is named.
    """
    files = [run_dir.with_name(f"{run_dir.name}-faults-{host}.json") for host in range(len(plans))]
    logs = [file.with_suffix(".log") for file in files]
    port = free_port()
    began = time.monotonic()
    processes = []
    for host, (plan, file) in enumerate(zip(plans, files, strict=True)):
        peer = None if len(plans) == 1 else str(files[1 - host])
        file.write_text(json.dumps({"faults": plan, "leave_out": leave_out, "peer": peer}))
    try:
        for host, (file, log) in enumerate(zip(files, logs, strict=True)):
            command = [
                sys.executable, "-m", "jaxgpt.supervise", "--run-dir", str(run_dir),
                "--first-wait-seconds", "0.1", "--also", "1", "--max-restarts", "8", "--",
                sys.executable, "-m", "tests.soak.faulty_run", "--faults", str(file),
                "--config", str(config), "--run-dir", str(run_dir),
                *(_host_options(port, host, len(plans)) if len(plans) > 1 else ()),
            ]  # fmt: skip
            with open(log, "w") as errors:
                processes.append(
                    subprocess.Popen(
                        command,
                        cwd=REPOSITORY,
                        env=environment(run_dir.parent / "cache", DEVICES_A_HOST),
                        stderr=errors,
                    )
                )
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()  # Which it passes on; does nothing to one that has ended.
    for code, log in zip(codes, logs, strict=True):
        if code != 0:
            raise SystemExit(f"{run_dir.name} ended with {code}; see {log}")
    restarts = tuple(log.read_text().count("; restarting in") for log in logs)
    return Outcome(run_dir, restarts, time.monotonic() - began)


def _host_options(port: int, host: int, num_hosts: int) -> list[str]:
    return [
        "--hosts.coordinator", f"127.0.0.1:{port}",
        "--hosts.num-hosts", str(num_hosts),
        "--hosts.host-id", str(host),
        "--hosts.heartbeat-seconds", str(_HEARTBEAT_SECONDS),
        "--hosts.start-timeout-seconds", str(_START_SECONDS),
    ]  # fmt: skip
