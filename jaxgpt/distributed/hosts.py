"""Several processes, on one machine or many, that compute together.

`joined_hosts` is entered before the first use of a device. In a process on its own it starts
nothing, and every function here answers as for one host.

    with joined_hosts(HostsConfig()):
        facts = gather("facts", {"cpus": 8})            # the value of each host, on all hosts
        steps = broadcast_from_first("steps", 100)      # the value of host 0, on all hosts
        if is_first_host(): ...                         # writes files
"""

import atexit
import collections
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxgpt.config import configclass
from jaxgpt.distributed.channel import HostChannel, end_process
from jaxgpt.distributed.launchers import HostPlacement, detect_placement
from jaxgpt.distributed.rendezvous import address_of, connect_hosts, is_loopback
from jaxgpt.errors import ConfigError, InterruptedByUser, JaxgptError, UnfinishedError

logger = logging.getLogger(__name__)

# How long the news of a host that ended takes to arrive.
_NEWS_SECONDS = 1.0


@configclass
class HostsConfig:
    """Place of this process among the hosts; Slurm, Open MPI and a Kubernetes JobSet set it."""

    coordinator: str | None = None
    """Address of host 0, HOST:PORT, as all hosts reach it; JAX uses the next port as well."""
    num_hosts: int | None = None
    """Number of processes in the run."""
    host_id: int | None = None
    """Number of this process, from 0."""
    heartbeat_seconds: float = 30.0
    """Longest silence of a host, in seconds; after that it counts as lost, and all others stop."""
    start_timeout_seconds: float = 300.0
    """Longest wait for all hosts to connect, and for each to answer the preflight check, in
    seconds."""
    max_clock_skew_seconds: float = 5.0
    """Largest allowed difference between the hosts' clocks, in seconds."""

    def __post_init__(self) -> None:
        for name in ("heartbeat_seconds", "start_timeout_seconds", "max_clock_skew_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.num_hosts is not None and self.num_hosts < 1:
            raise ValueError(f"num_hosts = {self.num_hosts}: must be at least 1")
        if self.host_id is not None and self.host_id < 0:
            raise ValueError(f"host_id = {self.host_id}: must be at least 0")
        if self.coordinator is not None:
            address_of(self.coordinator)


class _State:
    """Membership of this process in a group of hosts, if it is one of several."""

    def __init__(self) -> None:
        self.channel: HostChannel | None = None
        self.config = HostsConfig()
        self.topics: collections.Counter[str] = collections.Counter()
        self.on_abort: Any = None


_joined = _State()


def place(config: HostsConfig, environment: dict[str, str]) -> HostPlacement | None:
    """Combine the given fields with the launcher's variables; None for a process on its own.

    Raises:
        ConfigError: not enough is known, or this host's number is not below their count.
    """
    given = (config.coordinator, config.num_hosts, config.host_id)
    # What is given in full needs no launcher, not even one whose variables are not understood.
    found = detect_placement(environment) if None in given else None
    if found is None and (given == (None, None, None) or config.num_hosts == 1):
        return None
    if found is None and None in given:
        raise ConfigError(
            f"hosts.coordinator={given[0]}, hosts.num_hosts={given[1]}, hosts.host_id={given[2]}: "
            "no launcher is detected, so give all three, or none for one process"
        )
    placement = HostPlacement(
        coordinator=config.coordinator or found.coordinator,  # type: ignore[union-attr]
        num_hosts=config.num_hosts or found.num_hosts,  # type: ignore[union-attr]
        host_id=found.host_id if config.host_id is None else config.host_id,  # type: ignore[union-attr]
        local_id=found.local_id if found else None,
        launcher=found.launcher if found else "--hosts",
    )
    if placement.host_id >= placement.num_hosts:
        raise ConfigError(
            f"host {placement.host_id} of {placement.num_hosts}: numbers go from 0 to "
            f"{placement.num_hosts - 1} (from {placement.launcher})"
        )
    return None if placement.num_hosts == 1 else placement


@contextlib.contextmanager
def joined_hosts(config: HostsConfig) -> Iterator[None]:
    """Find the other hosts and stay connected until the work of all has ended.

    An exception inside is sent to the others, which end with the same exit code unless they raise
    one themselves. A lost host ends all others with exit code 75.

    Raises:
        ConfigError: see `place`.
        UnfinishedError: a host is missing.
    """
    placement = place(config, dict(os.environ))
    if placement is None:
        yield
        return
    channel = _join(placement, config)
    try:
        yield
    except BaseException as error:
        _leave_after(error, channel, config)
        raise
    if not channel.over():
        raise UnfinishedError("another host failed at the end; run the same command again")
    _shut_down(channel)


def is_first_host() -> bool:
    """Return whether this is host 0, or the only one, which writes files and talks to the user."""
    return _joined.channel is None or _joined.channel.host == 0


def host_share() -> tuple[int, int]:
    """Return the number of this host and of all hosts; no device is looked for."""
    channel = _joined.channel
    return (0, 1) if channel is None else (channel.host, len(channel.names))


def host_names() -> list[str]:
    """Return the names of the hosts in messages, by their number."""
    return [_own_name()] if _joined.channel is None else _joined.channel.names


def settings() -> HostsConfig:
    """Return the settings that this process has joined with; the defaults if it is alone."""
    return _joined.config


def abandon(code: int, message: str) -> None:
    """End this process and all other hosts at once, from any thread."""
    if _joined.channel is None:
        end_process(code, message)
    else:
        _joined.channel.abandon(code, message)


def gather(topic: str, value: Any, timeout_seconds: float | None = None) -> list[Any]:
    """Return the values of all hosts, in order, on every host; all must make the same call.

    Args:
        topic: name of the exchange, for messages.
        value: plain JSON values; on several hosts they come back as JSON gives them.
        timeout_seconds: longest wait for the others; None: `start_timeout_seconds`.

    Raises:
        UnfinishedError: a host did not answer in that time.
    """
    channel = _joined.channel
    if channel is None:
        return [value]
    _joined.topics[topic] += 1
    key = f"{topic}#{_joined.topics[topic]}"
    return channel.gather(key, value, timeout_seconds or _joined.config.start_timeout_seconds)


def broadcast_from_first(topic: str, value: Any) -> Any:
    """Return the value of host 0; all must make the same call, but other values are ignored."""
    return gather(topic, value if is_first_host() else None)[0]


def _join(placement: HostPlacement, config: HostsConfig) -> HostChannel:
    host, port = address_of(placement.coordinator)
    names, links = connect_hosts(placement, _own_name(), config.start_timeout_seconds)
    channel = HostChannel(placement.host_id, names, links, config.heartbeat_seconds)
    _joined.channel, _joined.config = channel, config
    _joined.topics.clear()
    _exit_unfinished_on_abort()
    _keep_stdout_for_results()
    # It would take SIGTERM for itself; which step to stop at is agreed in agreed_stop.py.
    jax.config.update("jax_enable_preemption_service", False)
    address = f"[{host}]" if ":" in host else host
    jax.distributed.initialize(
        f"{address}:{port + 1}",
        placement.num_hosts,
        placement.host_id,
        local_device_ids=placement.local_id,
        cluster_detection_method="deactivate",
        initialization_timeout=round(config.start_timeout_seconds),
        # Ours comes first: JAX's ends the process by abort().
        heartbeat_timeout_seconds=round(3 * config.heartbeat_seconds + 60),
        coordinator_bind_address=f"{address}:{port + 1}" if is_loopback(host) else None,
    )
    if placement.host_id != 0:
        logging.getLogger("jaxgpt").setLevel(logging.WARNING)
    logger.info("%d hosts (%s): %s", len(names), placement.launcher, ", ".join(names[:8]))
    return channel


def _leave_after(error: BaseException, channel: HostChannel, config: HostsConfig) -> None:
    code, message = _code_and_message(error)
    if code == 1:
        # Perhaps only what another host's end has led to here; then that becomes known, and ends
        # this process with the right words.
        from_jax = any(isinstance(cause, jax.errors.JaxRuntimeError) for cause in _causes(error))
        time.sleep(config.heartbeat_seconds if from_jax else _NEWS_SECONDS)
    if channel.over(code, message):
        _shut_down(channel)
    else:
        # JAX's own clearing up would wait for hosts that no longer answer.
        atexit.register(_exit_now, code)


def _code_and_message(error: BaseException) -> tuple[int, str]:
    if isinstance(error, JaxgptError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return InterruptedByUser.exit_code, "interrupted"
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None), "exit"
    return 1, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _exit_unfinished_on_abort() -> None:
    """Let `abort()` end this process with exit code 75.

    JAX's coordination service calls it, from a thread of C++, the moment it misses host 0; no
    Python is asked. Our own channel sees the same moment, and names the host, if given a second.
    """

    def on_abort(number: int) -> None:
        time.sleep(_NEWS_SECONDS)
        print("error: aborted by JAX or XLA, see above; start all hosts again", file=sys.stderr)
        _exit_now(UnfinishedError.exit_code)

    # Not signal.signal: Python would run its handler in the main thread, after the end.
    _joined.on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    ctypes.CDLL(None).signal(ctypes.c_int(signal.SIGABRT), _joined.on_abort)


def _keep_stdout_for_results() -> None:
    """Redirect output of libraries on stdout, such as Gloo's greetings, to stderr."""
    sys.stdout.flush()
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(results, "w", encoding=sys.stdout.encoding, buffering=1)  # noqa: SIM115


def _shut_down(channel: HostChannel) -> None:
    jax.distributed.shutdown()
    channel.close()
    _joined.channel = None


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _own_name() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"
