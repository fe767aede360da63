"""The process around the app: a thread for the engine, signals, and a stop that loses no answer."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from jaxgpt.errors import JaxgptError
from jaxgpt.inference.engine import Engine, Progress, Request
from jaxgpt.serving.guard import Guard

logger = logging.getLogger(__name__)

# Time for the last events of answers that were cut off.
_LAST_WORDS_SECONDS = 1.0


def warm_up(engine: Engine, token: int) -> None:
    """Compile the programs of the engine, so that the first clients do not wait for them.

    Args:
        engine: not running yet.
        token: any that a prompt may have.

    Raises:
        JaxgptError: the model cannot answer.
    """
    most = min(engine.prefill_chunk, engine.max_length - 1)
    # Chunks are padded to powers of two.
    sizes = sorted({1, *(1 << power for power in range(5, most.bit_length())), most})
    # The state is placed as the programs leave it only after the first: what has run until then
    # would be compiled once more, for the first client.
    for size in (sizes[0], *sizes):
        # Two tokens are decoded; as many more as are drafted at once make a model draft, which
        # reads the prompt too.
        for number in sorted({2, 2 + engine.most_drafts}):
            # The last token is never read.
            number = min(number, engine.max_length + 1 - size)
            # A seed of more than 32 bits, as most are, has a program of its own.
            request = Request(
                prompt=(token,) * size, max_new_tokens=number, seed=1 << 40, ignore_stop=True
            )
            _answer(engine, request)
    _answer(engine, Request(prompt=(token,) * 2, max_new_tokens=0, score_prompt=True))
    # One or two requests may have a program of their own.
    together = Request(prompt=(token,), max_new_tokens=min(8, most), seed=1 << 40, ignore_stop=True)
    _answer(engine, *[together] * min(3, engine.num_slots))


def _answer(engine: Engine, *requests: Request) -> None:
    """Let the engine answer requests at the same time."""
    news: list[Progress] = []
    for request in requests:
        engine.submit(request, news.append)
    while sum(new.finish is not None for new in news) < len(requests):
        engine.step()
    for new in news:
        if new.error is not None:
            raise new.error


class Server(uvicorn.Server):
    """uvicorn with an engine behind it, whose end is exit code 0.

    The first SIGTERM or SIGINT stops the taking of requests and waits for those that are answered,
    up to a time; then each stream gets an error as its last event. A second signal ends at once.

    Args:
        guard: around the app.
        app: the guarded app, as clients reach it.
        engine: whose thread lives as long as the server.
        listening: a socket that is bound.
        grace_seconds: most time that answers have to finish after the first signal.
        announce: called with the URL when the port is bound.
    """

    def __init__(
        self,
        guard: Guard,
        app: Any,
        engine: Engine,
        listening: socket.socket,
        grace_seconds: float,
        announce: Callable[[str], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(grace_seconds + 2 * _LAST_WORDS_SECONDS) + 1,
            server_header=False,
        )
        super().__init__(config)
        self._guard = guard
        self._engine = engine
        self._listening = listening
        self._failed = False
        self._grace_seconds = grace_seconds
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at signals; uvicorn's own raises them again at the end, which is no exit code 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.should_exit:
                # Whatever is being waited for must not delay the second signal.
                os._exit(128 + number)
            self.should_exit = True

        old = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in old.items():
                signal.signal(each, handler)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self._listening.getsockname()[:2]
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: Any = None) -> None:
        """Let answers finish within the grace time, then end the rest with an error event."""
        self._guard.stopping = True
        cutter = asyncio.ensure_future(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cutter.cancel()

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._grace_seconds)
        logger.warning("answers that take longer than %g seconds are cut off", self._grace_seconds)
        self._engine.shut()

    def serve_until_stopped(self) -> None:
        """Serve until a signal comes.

        Raises:
            JaxgptError: the engine ended by itself.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._work, args=(stop,), name="engine", daemon=True)
        thread.start()
        try:
            self.run(sockets=[self._listening])
        finally:
            stop.set()
            thread.join(timeout=30)
        if self._failed:
            raise JaxgptError("the engine has stopped; the lines above say why")

    def _work(self, stop: threading.Event) -> None:
        try:
            self._engine.run(stop)
        except BaseException:
            logger.exception("the engine has stopped")
            self._failed = True
        finally:
            # Without an engine there is nothing to serve.
            self.should_exit = True
