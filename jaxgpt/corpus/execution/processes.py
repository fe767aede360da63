"""Tasks in several processes of this machine.

A worker that is killed (by the kernel, when memory runs out) is replaced and its task done again; a
build that is killed takes its workers with it. `concurrent.futures` leaves both to its user: a dead
worker breaks its whole pool, without telling which task it ran.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from jaxgpt.corpus.execution.executor import Advance, Result, SerialExecutor
from jaxgpt.errors import JaxgptError
from jaxgpt.stop_signal import signal_at_parent_death

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
_SECONDS_BETWEEN_REPORTS = 0.25


class ProcessExecutor:
    """Workers that live as long as the executor, each with one task at a time."""

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        self._workers: list[_Worker] = []

    def run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        """See `Executor.run`."""
        if min(self._num_workers, len(work)) <= 1:
            yield from SerialExecutor().run(work, advance)
            return
        try:
            yield from self._run(work, advance)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        pending = deque(enumerate(work))
        num_attempts = [0] * len(work)
        num_finished = 0
        while num_finished < len(work):
            self._hand_out(pending, num_attempts)
            busy = {worker.connection: worker for worker in self._workers if worker.task}
            for connection in wait(list(busy), timeout=_SECONDS_BETWEEN_REPORTS):
                worker = busy[connection]  # type: ignore[index]
                assert worker.task is not None
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    self._replace(worker, num_attempts)
                    pending.appendleft(worker.task)
                    continue
                if kind == "advanced":
                    advance(value)
                    continue
                worker.task = None
                if kind == "failed":
                    raise value
                num_finished += 1
                yield value
            # Also the moment to notice that the build was asked to stop.
            advance(0)

    def _hand_out(
        self, pending: "deque[tuple[int, Callable[..., Any]]]", num_attempts: list[int]
    ) -> None:
        while len(self._workers) < min(self._num_workers, len(self._workers) + len(pending)):
            self._workers.append(_Worker())
        for worker in self._workers:
            if worker.task is None and pending:
                number, piece = worker.task = pending.popleft()
                num_attempts[number] += 1
                try:
                    worker.connection.send(piece)
                except OSError:
                    # It died idle; what it was given is noticed as lost at once.
                    logger.debug("worker %s is gone", worker.process.pid)

    def _replace(self, worker: "_Worker", num_attempts: list[int]) -> None:
        assert worker.task is not None
        worker.end()
        self._workers.remove(worker)
        number, _ = worker.task
        how = _describe_exit(worker.process.exitcode)
        if num_attempts[number] >= MAX_ATTEMPTS:
            raise JaxgptError(
                f"a worker process {how} {MAX_ATTEMPTS} times at the same task; if memory ran "
                "out, use fewer workers (--executor.workers); finished work is kept: run the "
                "same command again to continue"
            )
        logger.warning("a worker process %s; its task runs again", how)


class _Worker:
    """A process at the other end of a pipe.

    Attributes:
        task: current task: (number, piece of work); None if it is idle.
    """

    def __init__(self) -> None:
        self.task: tuple[int, Callable[..., Any]] | None = None
        # Not fork: threads of libraries do not survive it.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        # Ctrl-C reaches every process of a terminal; the parent decides what it means. A child is
        # born with what is blocked here, so that it is not even interrupted while it imports. The
        # first start of a tracker of resources would unblock it again.
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, parent: int) -> None:
    """Run a worker: receive pieces of work and send results."""
    _die_with(parent)
    while True:
        try:
            piece = connection.recv()
        except EOFError:
            return
        report = _Report(connection)
        try:
            message = ("finished", piece(report))
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            message = ("failed", _picklable(error))
        connection.send(message)


class _Report:
    """Reports progress at limited frequency."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._amount = 0
        self._last = time.monotonic()

    def __call__(self, amount: int) -> None:
        self._amount += amount
        if time.monotonic() - self._last > _SECONDS_BETWEEN_REPORTS:
            self._connection.send(("advanced", self._amount))
            self._amount, self._last = 0, time.monotonic()


def _die_with(parent: int) -> None:
    """End this process when its parent ends, in whatever way."""
    signal_at_parent_death(signal.SIGKILL)()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    # Where there is no such call, or the parent was gone before it.
    threading.Thread(target=watch, daemon=True).start()


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
