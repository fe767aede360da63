"""Origins of web pages, in the spelling in which browsers send them."""

import ipaddress
import re
from urllib.parse import urlsplit

# Browsers leave it out (https://url.spec.whatwg.org/#default-port).
_DEFAULT_PORTS = {"ftp": 21, "http": 80, "https": 443, "ws": 80, "wss": 443}
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_ALLOWED = (
    "allowed: a scheme and a host in small letters, perhaps with a port up to 65535, and nothing "
    "behind, such as https://chat.example.org"
)


def origin_fault(origin: str) -> str | None:
    """Return why no browser sends an origin, and what to write instead; None where one does."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"is no origin; {_ALLOWED}"
    if not host.isascii():
        return "is not what browsers send; write the host in ASCII, as xn--..."
    name = f"[{host}]" if ":" in host else host
    behind = "" if port is None else f":{port}"
    if not _is_host(host) or origin != f"{parts.scheme}://{name}{behind}":
        return f"is no origin; {_ALLOWED}"
    if port is not None and port == _DEFAULT_PORTS.get(parts.scheme):
        return f"is not what browsers send; leave {behind} out"
    return None


def _is_host(host: str) -> bool:
    """Return whether a host is a name, or an address in the form that browsers give it."""
    if ":" not in host and not host.rpartition(".")[2].isdigit():
        return _HOST.fullmatch(host) is not None
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False
