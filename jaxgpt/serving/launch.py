"""Put the parts together and serve."""

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.inference.engine import Engine
from jaxgpt.serving.app import make_app
from jaxgpt.serving.guard import Guard, allow_origins
from jaxgpt.serving.served_model import ServedModel, ServedModels
from jaxgpt.serving.server import Server, warm_up
from jaxgpt.serving.structured import AnswerForms
from jaxgpt.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ServedFacts:
    """Facts about a model that clients see; see `ServedModel`.

    `stop_id` is the id that ends an answer.
    """

    name: str
    aliases: tuple[str, ...] = ()
    stop_id: int
    created: int
    meta: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Settings of the socket and its guard; see `Server` and `Guard`."""

    host: str
    socket: socket.socket
    api_keys: tuple[str, ...]
    cors_origins: tuple[str, ...]
    max_body_bytes: int
    answer_seconds: float
    grace_seconds: float


def make_server(
    facts: Sequence[ServedFacts],
    engine: Engine,
    tokenizer: Tokenizer,
    listening: Listening,
    announce: Callable[[str], None],
) -> Server:
    """Return a server that has not begun.

    Args:
        facts: of the base, then of the engine's adapters in their order.
        engine: what answers.
        tokenizer: of all models.
        listening: where, and for whom.
        announce: is called with the URL.
    """
    # Their vocabularies are large: one for each way to end an answer.
    forms = {each.stop_id: AnswerForms(tokenizer, each.stop_id) for each in facts}
    models = [
        ServedModel(
            name=each.name,
            aliases=each.aliases,
            engine=engine,
            adapter=number,
            parent=facts[0].name if number else None,
            tokenizer=tokenizer,
            forms=forms[each.stop_id],
            answer_seconds=listening.answer_seconds,
            created=each.created,
            meta=each.meta,
        )
        for number, each in enumerate(facts)
    ]
    app = make_app(ServedModels(models))
    guard = Guard(app, listening.api_keys, listening.max_body_bytes, listening.host)
    opened = allow_origins(guard, listening.cors_origins)
    return Server(guard, opened, engine, listening.socket, listening.grace_seconds, announce)


def serve(
    facts: Sequence[ServedFacts],
    engine: Engine,
    tokenizer: Tokenizer,
    listening: Listening,
    announce: Callable[[str], None],
) -> None:
    """Serve until a signal comes; see `make_server`."""
    server = make_server(facts, engine, tokenizer, listening, announce)
    warm_up(engine, tokenizer.bos_id)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_until_stopped()
