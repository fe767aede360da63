"""Options of the server, from the command line and the environment, and their checks."""

import dataclasses
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import tyro

from jaxgpt.command_line import find_option, parse_options, require_at_least
from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.inference import (
    DecodingMesh,
    DraftModel,
    EngineConfig,
    NgramLookup,
    Precision,
    Speculation,
)
from jaxgpt.inference.precision import WHILE_WRITING

_VARIABLE_PREFIX = "JAXGPT_SERVE_"
# Options within options, by what their names begin with.
_SECTIONS: tuple[tuple[str, type], ...] = (
    ("engine.", EngineConfig),
    ("mesh.", DecodingMesh),
    ("speculation.", NgramLookup),
    ("speculation.", DraftModel),
    ("", Precision),
)
_LAST_PORT = 65535
# Browsers leave it out (https://url.spec.whatwg.org/#default-port).
_DEFAULT_PORTS = {"ftp": 21, "http": 80, "https": 443, "ws": 80, "wss": 443}
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_ALLOWED_ORIGINS = (
    "allowed: a scheme and a host in small letters, perhaps with a port up to 65535, and nothing "
    "behind, such as https://chat.example.org"
)
_Texts = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a trained model over HTTP; each option can also be an environment variable,
    JAXGPT_SERVE_PORT for --port, with spaces between several values."""

    checkpoint: str
    """Run folder, as written by jaxgpt.train or jaxgpt.finetune, or its URL."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach needs --api-key-file."""
    port: int = 8000
    """Port to listen at; 0 for any that is free."""
    api_key_file: Path | None = None
    """File with API keys, one a line, lines with # left out; None: no key is needed."""
    cors_origin: tuple[str, ...] = ()
    """Origins of web pages that may read answers, such as https://chat.example.org; * for any, only
    together with --api-key-file."""
    name: str | None = None
    """Model id that clients see; None: the name of the run folder."""
    alias: tuple[str, ...] = ()
    """Further model ids that clients may use."""
    adapter: _Texts = ()
    """LoRA adapters of the checkpoint as models of their own, one or more NAME=RUN: the model id
    that clients see, and the run folder."""
    max_body_megabytes: int = 16
    """Largest body of a request."""
    answer_seconds: int = 3600
    """Most seconds from a request to the end of its answer."""
    grace_seconds: int = 30
    """Most seconds that answers have to finish after SIGTERM."""
    precision: Annotated[Precision, tyro.conf.arg(name="")] = field(default=WHILE_WRITING)
    mesh: DecodingMesh = field(default_factory=DecodingMesh)
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Size of the engine."""
    speculation: Speculation | None = None
    """Drafts of tokens, which the model verifies several at a time; up to rounding answers are
    those without."""


def parse(argv: Sequence[str]) -> tuple[ServeOptions, tuple[str, ...]]:
    """Return the options and the API keys.

    Raises:
        UsageError: an option is wrong, or other machines would be answered without a key.
        ConfigError: the engine cannot have that size.
    """
    _refuse_unknown_variables()
    arguments = [*_from_environment(argv), *argv]
    default = ServeOptions(checkpoint=tyro.MISSING)
    options = parse_options(ServeOptions, arguments, "jaxgpt serve", default)
    require_at_least(options, port=0, max_body_megabytes=1, answer_seconds=1, grace_seconds=0)
    if options.port > _LAST_PORT:
        raise UsageError(f"--port {options.port} must be at most {_LAST_PORT}")
    named_adapters(options, options.name)
    keys = _read_keys(options.api_key_file)
    _check_host(options.host, keys)
    _check_origins(options.cors_origin, keys)
    return options, keys


def named_adapters(options: ServeOptions, name: str | None) -> dict[str, str]:
    """Return the runs of the adapters by the model ids that clients see.

    Args:
        options: from the command line.
        name: the base's model id, as far as it is known.

    Raises:
        UsageError: one is not NAME=RUN, or a name is taken.
    """
    found: dict[str, str] = {}
    for text in (text for texts in options.adapter for text in texts):
        own, _, place = text.partition("=")
        if not own or not place:
            raise UsageError(f"--adapter {text} must be NAME=RUN, a model id and a run folder")
        if own in (name, *options.alias, *found):
            raise UsageError(f"--adapter {text}: another model is named {own}; choose another name")
        found[own] = place
    return found


def _own_options() -> list[dataclasses.Field[Any]]:
    """Return the options that have a value themselves; sections have options."""
    sections = {section for _, section in _SECTIONS}
    fields = dataclasses.fields(ServeOptions)
    return [
        option
        for option in fields
        if option.default_factory not in sections and type(option.default) not in sections
    ]


def _options_of_sections() -> list[str]:
    """Return the names of the options within options, each once: variants share some."""
    names = [
        f"{prefix}{option.name}"
        for prefix, section in _SECTIONS
        for option in dataclasses.fields(section)
    ]
    return list(dict.fromkeys(names))


def _refuse_unknown_variables() -> None:
    """Refuse a misspelt variable, which would change nothing without a word."""
    names = [option.name for option in _own_options()]
    names += _options_of_sections()
    known = [_VARIABLE_PREFIX + name.replace(".", "_").upper() for name in names]
    for name in sorted(os.environ):
        if name.startswith(_VARIABLE_PREFIX) and name not in known:
            raise UsageError(
                f"the environment variable {name} is no option of the server; unset it"
                f"{did_you_mean(name, known)}"
            )


def _from_environment(argv: Sequence[str]) -> list[str]:
    """Return options that the environment gives, but for those of the command line."""
    found = []
    for option in _own_options():
        name = f"--{option.name.replace('_', '-')}"
        value = os.environ.get(_VARIABLE_PREFIX + option.name.upper())
        if value is not None and find_option(argv, name) is None:
            several = isinstance(option.default, tuple)
            found += [name, *(value.split() if several else [value])]
    for name in _options_of_sections():
        value = os.environ.get(_VARIABLE_PREFIX + name.replace(".", "_").upper())
        if value is not None:
            found += [f"--{name.replace('_', '-')}", value]
    return found


def _read_keys(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"--api-key-file {path} cannot be read: {reason}") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise UsageError(f"--api-key-file {path} has no key; write one a line")
    if any(len(key.split()) > 1 for key in keys):
        raise UsageError(f"--api-key-file {path} has a key with a space; write one a line")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise UsageError(
            f"--api-key-file {path} has a key that clients cannot send in a header; allowed: "
            "letters, digits and signs of ASCII"
        )
    return keys


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, before a model is loaded for nothing.

    Raises:
        UsageError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen at --host {host} --port {port}: {reason}; choose others"
        ) from None
    return found


def _check_host(host: str, keys: Sequence[str]) -> None:
    """Refuse to answer other machines without a key."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not keys:
        raise UsageError(
            f"--host {host} can be reached from other machines: give --api-key-file, or listen at "
            "127.0.0.1"
        )


def _check_origins(origins: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse what is no origin, and to answer the pages of all sites without a key."""
    for origin in origins:
        if origin == "*" and not keys:
            raise UsageError(
                "--cors-origin * lets the pages of any site use the model: give --api-key-file, or "
                "name the origins"
            )
        if origin != "*" and (fault := _origin_fault(origin)) is not None:
            raise UsageError(f"--cors-origin {origin} {fault}")


def _origin_fault(origin: str) -> str | None:
    """Return why no browser sends an origin, and what to write instead; None where one does."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"is no origin; {_ALLOWED_ORIGINS}"
    if not host.isascii():
        return "is not what browsers send; write the host in ASCII, as xn--..."
    name = f"[{host}]" if ":" in host else host
    behind = "" if port is None else f":{port}"
    if not _is_host(host) or origin != f"{parts.scheme}://{name}{behind}":
        return f"is no origin; {_ALLOWED_ORIGINS}"
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
