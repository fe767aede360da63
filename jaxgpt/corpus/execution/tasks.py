"""Stages of restartable tasks. A task is a pure function of files; its result is a folder.

A task writes into a temporary folder, which is renamed when all of it is on disk, together with
`done.json`: a folder with its final name is complete. `done.json` carries a key made of
everything the result depends on, so that a build that is started again skips exactly what is
still valid. How work is cut into tasks depends on the input, never on who carries them out.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from jaxgpt.corpus.execution.executor import Executor
from jaxgpt.corpus.execution.progress import BuildProgress
from jaxgpt.storage.durable import sync_folder

logger = logging.getLogger(__name__)

# To be raised whenever a stage would write something else for the same key.
WORK_VERSION = 8
_DONE = "done.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One unit of work of a stage.

    Attributes:
        name: of its folder within the stage.
        depends_on: JSON-able; all that the result is a function of.
        arguments: what the function is called with, after the folder and `advance`.
        num_bytes: how much work it is, for progress.
    """

    name: str
    depends_on: Any
    arguments: tuple[Any, ...]
    num_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A finished task: where its files are, its key, and what its function returned (JSON)."""

    folder: Path
    key: str
    result: dict[str, Any]


TaskFunction = Callable[..., dict[str, Any]]
"""(folder to write into, advance(num_bytes), *arguments) -> a result that JSON can hold."""


class TaskRunner:
    """Runs stages one after the other in a work folder."""

    def __init__(self, work: Path, executor: Executor, progress: BuildProgress) -> None:
        self._work = work
        self._executor = executor
        self._progress = progress

    def run(
        self, title: str, function: TaskFunction, tasks: Sequence[Task], name: str = ""
    ) -> list[TaskResult]:
        """Carry out the tasks that have not been; return all results in the order of the tasks.

        Args:
            title: what people read.
            function: a function of a module; what it returns for one task depends on nothing else.
            name: of the stage's folder, where two stages share a function.

        Raises:
            InterruptedByUser, UnfinishedError: asked to stop; finished tasks stay.
        """
        stage = self._work / (name or function.__name__)
        stage.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(stage)
        self._progress.begin(title, sum(task.num_bytes for task in tasks))
        results: dict[str, TaskResult] = {}
        try:
            for task in tasks:
                if done := _reuse(stage, task):
                    results[task.name] = done
                    self._progress.advance(task.num_bytes)
            num_reused = len(results)
            work = [
                functools.partial(carry_out, stage, function, task)
                for task in tasks
                if task.name not in results
            ]
            for done in self._executor.run(work, self._progress.advance):
                results[done.folder.name] = done
            self._progress.finish()
        finally:
            self._progress.close()
            # Of workers that were stopped in the middle; a full disk needs the room.
            _remove_leftovers(stage)
        if num_reused:
            logger.info("%s: %d of %d parts were already done", title, num_reused, len(tasks))
        return [results[task.name] for task in tasks]


def task_key(stage: str, task: Task) -> str:
    """Return a hash of all that the result of a task depends on."""
    value = [WORK_VERSION, stage, task.depends_on]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def combined_key(results: Sequence[TaskResult]) -> str:
    """Return a hash of all `results`, for tasks that depend on all of them."""
    return hashlib.sha256("".join(done.key for done in results).encode()).hexdigest()


def carry_out(
    stage: Path, function: TaskFunction, task: Task, advance: Callable[[int], None]
) -> TaskResult:
    """Do one task; its result takes its name only when all of it is on disk.

    Two that do the same task at once, as a cluster may after losing sight of a machine, do not
    disturb each other: they write the same, and the first to finish counts.
    """
    folder = stage / task.name
    temporary = Path(tempfile.mkdtemp(prefix=f".{task.name}.", suffix=".tmp", dir=stage))
    advanced = 0

    def advance_within(amount: int) -> None:
        nonlocal advanced
        amount = min(amount, task.num_bytes - advanced)
        advanced += amount
        advance(amount)

    try:
        result = function(temporary, advance_within, *task.arguments)
        advance_within(task.num_bytes)
        key = task_key(stage.name, task)
        files = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
        record = {"key": key, "result": result, "files": files}
        (temporary / _DONE).write_text(json.dumps(record), "utf-8")
        for path in temporary.iterdir():
            _sync(path)
        sync_folder(temporary)
        if (done := _reuse(stage, task)) is not None:
            shutil.rmtree(temporary)
            return done
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(stage)
    # What was returned must be what a later run would read.
    return TaskResult(folder=folder, key=key, result=json.loads(json.dumps(result)))


def _remove_leftovers(stage: Path) -> None:
    for leftover in stage.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _reuse(stage: Path, task: Task) -> TaskResult | None:
    """Return the result of an earlier run of this task, if all of its files are as written."""
    folder = stage / task.name
    try:
        record = json.loads((folder / _DONE).read_text("utf-8"))
        if record["key"] != task_key(stage.name, task):
            return None
        if any(_checksum(folder / name) != sum for name, sum in record["files"].items()):
            logger.warning("%s is damaged and is computed again", folder)
            return None
    except (OSError, ValueError):
        return None
    return TaskResult(folder=folder, key=record["key"], result=record["result"])


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
