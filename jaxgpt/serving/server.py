"""The process around the app: a thread for the engine, signals, and a stop that loses no answer."""

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn

from jaxgpt.inference.engine import Engine, Request, RequestSampling
from jaxgpt.serving.guard import Guard

logger = logging.getLogger(__name__)

# Time for the last events of answers that were cut off.
_LAST_WORDS_SECONDS = 1.0


def warm_up(engine: Engine, token: int) -> None:
    """Compile the programs of the engine, so that the first client does not wait for them."""
    done = threading.Event()
    sampling = RequestSampling()
    engine.submit(
        Request(prompt=(token,), max_new_tokens=2, sampling=sampling, ignore_stop=True),
        lambda progress: done.set() if progress.finish is not None else None,
    )
    while not done.is_set():
        engine.step()


class Server(uvicorn.Server):
    """uvicorn with an engine behind it, whose end is exit code 0.

    The first SIGTERM or SIGINT stops the taking of requests and waits for those that are answered,
    up to a time; then each stream gets an error as its last event. A second signal ends at once.

    Args:
        app: the guarded app.
        engine: whose thread lives as long as the server.
        host, port: to bind; port 0 for any that is free.
        grace_seconds: most time that answers have to finish after the first signal.
        announce: called with the URL when the port is bound.
    """

    def __init__(
        self, app: Guard, engine: Engine, host: str, port: int, grace_seconds: float, announce: Any
    ) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(grace_seconds + 2 * _LAST_WORDS_SECONDS) + 1,
            server_header=False,
        )
        super().__init__(config)
        self._guard = app
        self._engine = engine
        self._grace_seconds = grace_seconds
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at signals; uvicorn's own raises them again at the end, which is no exit code 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
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
            (host, port) = self.servers[0].sockets[0].getsockname()[:2]
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
        self._engine.cancel_all()

    def serve_until_stopped(self) -> None:
        """Serve until a signal comes."""
        stop = threading.Event()
        thread = threading.Thread(target=self._engine.run, args=(stop,), name="engine", daemon=True)
        thread.start()
        try:
            self.run()
        finally:
            stop.set()
            thread.join(timeout=30)
        if not self.started:
            # uvicorn has said why.
            sys.exit(1)
