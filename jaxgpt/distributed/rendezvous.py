"""Rendezvous of the hosts of a run: all connect to host 0, or the missing ones are named. Host 0
listens, the others call until they are answered; none continues before all are connected. JAX's own
start-up aborts the process when a host is missing, without saying which.
"""

import os
import socket
import time
from collections.abc import Sequence

from jaxgpt.distributed.launchers import HostPlacement
from jaxgpt.distributed.links import Link
from jaxgpt.errors import ConfigError, JaxgptError, UnfinishedError

_PROTOCOL = 1
_RETRY_SECONDS = 0.2
# How long a caller may take to say who it is: port scanners connect and say nothing.
_HELLO_SECONDS = 5.0


def connect_hosts(
    placement: HostPlacement, name: str, timeout_seconds: float
) -> tuple[list[str], dict[int, Link]]:
    """Return the names of all hosts in order, and links: from host 0 to all others, or to host 0.

    Args:
        placement: this process's number, and the address of host 0.
        name: of this host, in messages.
        timeout_seconds: until all hosts must be connected.

    Raises:
        UnfinishedError: a host did not connect in time; it is named.
        ConfigError: two processes have one number, or hosts were given different counts.
    """
    if placement.host_id == 0:
        return _wait_for_others(placement, name, timeout_seconds)
    return _call_first(placement, name, timeout_seconds)


def address_of(coordinator: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        ConfigError: it is not of that form.
    """
    host, _, port = coordinator.rpartition(":")
    # The port after it is JAX's.
    if not host or not port.isdigit() or not 0 < int(port) < 65_535:
        raise ConfigError(f"hosts.coordinator={coordinator}: must be HOST:PORT, port 1 to 65534")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def describe_hosts(hosts: Sequence[int], names: Sequence[str] | dict[int, str]) -> str:
    """Return `host 1 (node-b), host 2 (node-c)`, with at most eight hosts."""
    shown = ", ".join(f"host {host} ({names[host]})" for host in hosts[:8])
    return f"{shown} and {len(hosts) - 8} more" if len(hosts) > 8 else shown


def _wait_for_others(
    placement: HostPlacement, name: str, timeout_seconds: float
) -> tuple[list[str], dict[int, Link]]:
    names, links = {0: name}, dict[int, Link]()
    deadline = time.monotonic() + timeout_seconds
    with _listener(placement.coordinator) as listener:
        while len(names) < placement.num_hosts:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = Link(listener.accept()[0])
            except TimeoutError:
                missing = [host for host in range(placement.num_hosts) if host not in names]
                error = UnfinishedError(_missing_message(missing, names, timeout_seconds))
                raise _refuse(list(links.values()), error) from None
            hello = link.receive(_HELLO_SECONDS)
            if hello is None or hello.get("jaxgpt") != _PROTOCOL:
                link.close()
                continue
            host = int(hello["host"])
            if problem := _disagreement(placement, hello, names):
                raise _refuse([*links.values(), link], ConfigError(problem))
            names[host], links[host] = str(hello["name"]), link
    ordered = [names[host] for host in range(placement.num_hosts)]
    for link in links.values():
        link.send({"kind": "welcome", "names": ordered})
    return ordered, links


def _call_first(
    placement: HostPlacement, name: str, timeout_seconds: float
) -> tuple[list[str], dict[int, Link]]:
    hello = {
        "jaxgpt": _PROTOCOL,
        "host": placement.host_id,
        "num_hosts": placement.num_hosts,
        "name": name,
    }
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            address = address_of(placement.coordinator)
            link = Link(socket.create_connection(address, timeout=_HELLO_SECONDS))
        except OSError:
            time.sleep(_RETRY_SECONDS)
            continue
        link.send(hello)
        # Host 0 gives up by itself, and then says who is missing.
        answer = link.receive(deadline - time.monotonic() + 2 * _HELLO_SECONDS)
        if answer is not None and answer["kind"] == "welcome":
            return answer["names"], {0: link}
        if answer is not None:
            error = ConfigError if answer["code"] == ConfigError.exit_code else UnfinishedError
            raise error(answer["message"])
        link.close()
        time.sleep(_RETRY_SECONDS)
    raise UnfinishedError(
        f"no answer from host 0 at {placement.coordinator} for {timeout_seconds:g} s; is it "
        "running, and is its address right (--hosts.coordinator)? Start all hosts again"
    )


def _listener(coordinator: str) -> socket.socket:
    host, port = address_of(coordinator)
    try:
        if is_loopback(host):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=1024)
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
    except OSError as error:
        raise ConfigError(
            f"host 0 cannot listen at port {port}: {os.strerror(error.errno or 0)}; end what "
            "listens there, or choose another port in --hosts.coordinator"
        ) from None


def _refuse(links: Sequence[Link], error: JaxgptError) -> JaxgptError:
    for link in links:
        link.send({"kind": "end", "code": error.exit_code, "message": str(error)})
        link.close()
    return error


def _missing_message(missing: list[int], names: dict[int, str], timeout_seconds: float) -> str:
    numbers = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
    return (
        f"host{'s' if len(missing) > 1 else ''} {numbers} of {len(missing) + len(names)} did not "
        f"connect within {timeout_seconds:g} s; connected are "
        f"{describe_hosts(sorted(names), names)}. Look at the logs of the missing ones, and start "
        "all hosts again"
    )


def _disagreement(placement: HostPlacement, hello: dict[str, object], names: dict[int, str]) -> str:
    host, name = int(str(hello["host"])), hello["name"]
    if hello["num_hosts"] != placement.num_hosts:
        return (
            f"host 0 ({names[0]}) was told of {placement.num_hosts} hosts, host {host} ({name}) "
            f"of {hello['num_hosts']}; give all the same --hosts.num-hosts"
        )
    if host in names:
        return f"{names[host]} and {name} are both host {host}; give each its own --hosts.host-id"
    return ""
