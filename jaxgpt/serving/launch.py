"""Put the parts together and serve."""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxgpt.inference.engine import Engine
from jaxgpt.serving.app import make_app
from jaxgpt.serving.guard import Guard
from jaxgpt.serving.served_model import ServedModel
from jaxgpt.serving.server import Server, warm_up
from jaxgpt.serving.structured import AnswerForms
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ServedFacts:
    """Facts about a model that clients see; see `ServedModel`.

    `stop_id` is the id that ends an answer.
    """

    name: str
    aliases: tuple[str, ...]
    stop_id: int
    created: int
    meta: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Settings of the socket and its guard; see `Server` and `Guard`."""

    host: str
    socket: socket.socket
    api_keys: tuple[str, ...]
    max_body_bytes: int
    grace_seconds: float
    largest_chunk: int


def make_server(
    facts: ServedFacts,
    engine: Engine,
    tokenizer: Tokenizer,
    listening: Listening,
    announce: Callable[[str], None],
) -> Server:
    """Return a server that has not begun; `announce` is called with its URL."""
    model = ServedModel(
        name=facts.name,
        aliases=facts.aliases,
        engine=engine,
        tokenizer=tokenizer,
        created=facts.created,
        meta=facts.meta,
    )
    app = make_app(model, AnswerForms(tokenizer, facts.stop_id))
    guard = Guard(app, listening.api_keys, listening.max_body_bytes, listening.host)
    return Server(guard, engine, listening.socket, listening.grace_seconds, announce)


def serve(
    facts: ServedFacts,
    engine: Engine,
    tokenizer: Tokenizer,
    listening: Listening,
    announce: Callable[[str], None],
) -> None:
    """Serve until a signal comes; see `make_server`."""
    server = make_server(facts, engine, tokenizer, listening, announce)
    warm_up(engine, tokenizer.bos_id, listening.largest_chunk)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_until_stopped()
