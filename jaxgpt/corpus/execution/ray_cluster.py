"""Tasks on a Ray cluster, or on a Ray of this machine's own.

Data never passes through Ray: tasks read and write files in the dataset folder, which every machine
must see under the same path. Ray places the tasks and runs lost ones again.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxgpt.corpus.execution.executor import Advance, Result
from jaxgpt.errors import JaxgptError
from jaxgpt.names.packages import import_package, install_advice

logger = logging.getLogger(__name__)

MAX_RETRIES = 3
_SECONDS_BETWEEN_REPORTS = 0.5
# Tasks that Ray knows of at once; more would only wait there.
_MAX_SUBMITTED = 1000
_MOST_STARTS = 3
_QUIET = {"logging_level": logging.ERROR, "log_to_driver": False, "ignore_reinit_error": True}


class RayExecutor:
    """Ray Core tasks, one CPU each."""

    def __init__(self, num_workers: int | None, address: str | None) -> None:
        advice = f"{install_advice('ray')}, or choose --executor.kind processes"
        self._ray: Any = import_package("ray", "executor.kind = 'ray'", advice)
        # Ray reports on itself over the network unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None:
            self._start_here(num_workers)
        else:
            self._connect(address)
        self._task = self._ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_do)

    def _connect(self, address: str) -> None:
        try:
            self._ray.init(address=address, **_QUIET)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise JaxgptError(
                f"executor.address = {address!r}: no Ray cluster answers ({error}); start one, or "
                "leave the address out for a Ray on this machine"
            ) from error

    def _start_here(self, num_workers: int | None) -> None:
        """Start a Ray of our own; on a busy machine it needs longer than the 30 s that it gives."""
        for attempt in range(1, _MOST_STARTS + 1):
            try:
                self._ray.init(
                    address="local",
                    num_cpus=num_workers,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    **_QUIET,
                )
                return
            except (ValueError, TypeError) as error:
                raise JaxgptError(f"Ray does not start on this machine: {error}") from error
            except Exception as error:
                self._ray.shutdown()
                # What Ray raises where its processes are slow to come up is a plain Exception.
                if type(error) not in (Exception, ConnectionError, RuntimeError):
                    raise
                if attempt == _MOST_STARTS:
                    raise JaxgptError(
                        f"Ray does not start on this machine ({error}); try again when it is less "
                        "busy, or choose --executor.kind processes"
                    ) from error
                logger.warning("Ray did not start (%s); starting it again", error)

    def run(
        self, work: Sequence[Callable[[Advance], Result]], advance: Advance
    ) -> Iterator[Result]:
        """See `Executor.run`."""
        waiting = list(reversed(work))
        submitted: list[Any] = []
        try:
            while waiting or submitted:
                while waiting and len(submitted) < _MAX_SUBMITTED:
                    submitted.append(self._task.remote(waiting.pop()))
                finished, submitted = self._ray.wait(submitted, timeout=_SECONDS_BETWEEN_REPORTS)
                for reference in finished:
                    result, num_bytes = self._get(reference)
                    advance(num_bytes)
                    yield result
                advance(0)
        finally:
            for reference in submitted:
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster; a Ray of our own ends."""
        self._ray.shutdown()

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise JaxgptError(
                f"Ray gave up a task after {MAX_RETRIES} retries: {error}; finished work is kept: "
                "run the same command again to continue"
            ) from error


def _do(piece: Callable[[Advance], Result]) -> tuple[Result, int]:
    """Return the result of a piece of work, and its amount."""
    num_bytes = 0

    def count(amount: int) -> None:
        nonlocal num_bytes
        num_bytes += amount

    return piece(count), num_bytes
