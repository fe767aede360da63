"""Steps in a directory, found and read so that a wrong number is never returned. Files are compared
with their hashes before they are read, and again afterwards: damage stays, so files that are whole
after the read were whole during it. Hosts divide the hashing and agree on the result, so that all
read the same step, or none.
"""

import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.named_trees import ArraySpec, describe_difference, named_specs, refill
from jaxgpt.checkpoints.orbax_adapter import OrbaxFiles
from jaxgpt.checkpoints.retention import (
    Evaluation,
    comparable_losses,
    describe_left_out,
    rank_by_loss,
    read_evaluation,
)
from jaxgpt.checkpoints.step_content import (
    PARAMS,
    find_content_problem,
    find_obvious_problem,
    read_document,
)
from jaxgpt.distributed.hosts import broadcast_from_first, gather, host_share
from jaxgpt.errors import (
    MismatchError,
    NoCheckpointError,
    UsageError,
    is_machine_error,
    one_line,
)

logger = logging.getLogger(__name__)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# TensorStore, which writes the arrays, raises ValueError with the system's number in its text.
_ERRNO_IN_TEXT = re.compile(r"\[os_error_code='(\d+)'\]")


class DamagedStep(NamedTuple):
    """A step that a search has passed over."""

    step: int
    problem: str


class Search(NamedTuple):
    """The step that was found, if any, and those before it that are damaged."""

    step: int | None
    damaged: tuple[DamagedStep, ...]


class StoredSteps:
    """Finds and reads the steps in one directory.

    Args:
        directory: of the checkpoints.
        files: reads the arrays.
    """

    def __init__(self, directory: Path, files: OrbaxFiles) -> None:
        self._directory = directory
        self._files = files
        self._evaluations: dict[int, Evaluation | None] = {}
        self._damaged: set[int] = set()
        self._fresh: tuple[int, frozenset[str]] | None = None

    def complete(self) -> list[int]:
        """Return the steps without obvious or known damage, ascending."""
        steps = step_folders.complete_steps(self._directory, find_obvious_problem)
        return [step for step in steps if step not in self._damaged]

    def evaluations(self) -> dict[int, Evaluation | None]:
        """Return the evaluation of each complete step, None where it has none, ascending."""
        steps = self.complete()
        for step in steps:
            if step not in self._evaluations:
                self._evaluations[step] = read_evaluation(self.read_metadata(step))
        return {step: self._evaluations[step] for step in steps}

    def forget(self, step: int) -> None:
        """Forget what is known of a step, because a new folder may get its name."""
        self._evaluations.pop(step, None)
        self._damaged.discard(step)
        self._fresh = None

    def find_problem(self, step: int, items: Sequence[str]) -> str | None:
        """Hash some items of a step; return what is wrong, alike on all hosts."""
        problem = find_content_problem(self._folder(step), items, host_share())
        problem = next(filter(None, gather(f"damage of checkpoint {step}", problem)), None)
        if problem is None:
            self._fresh = step, frozenset(items)
        else:
            self._damaged.add(step)
        return problem

    def first_whole(self, candidates: Iterable[int], items: Sequence[str]) -> Search:
        """Find the first of some steps whose `items` are whole; alike on all hosts."""
        remaining, damaged = list(candidates), []
        while True:
            # The first host's list counts: others may still see what it has just renamed.
            step = remaining.pop(0) if remaining else None
            step = broadcast_from_first("a checkpoint to try", step)
            if step is None:
                return Search(None, tuple(damaged))
            problem = self.find_problem(step, items)
            if problem is None:
                return Search(step, tuple(damaged))
            damaged.append(DamagedStep(step, problem))

    def is_number(self, name: str | int) -> bool:
        """Return whether `name` is the number of a step that is there, whole or not."""
        return str(name) in map(str, step_folders.named_steps(self._directory))

    def candidates(self, name: str | int) -> list[int]:
        """Return the complete steps that "latest" or "best" may mean, the first choice first.

        Raises:
            NoCheckpointError: `name` is "best", and no step has an evaluation.
            UsageError: `name` is neither of the two.
        """
        steps = self.complete()
        if name == "best":
            evaluations = self.evaluations()
            candidates = rank_by_loss(evaluations, comparable_losses(evaluations))
            if left_out := describe_left_out(evaluations):
                logger.warning("best: %s", left_out)
            if steps and not candidates:
                raise NoCheckpointError(
                    f"no checkpoint in {self._directory} has an evaluation loss; use latest or "
                    f"one of {', '.join(map(str, steps))}"
                )
            return candidates
        if steps and name != "latest":
            raise UsageError(
                f"no checkpoint of step {name} in {self._directory}; there are "
                f"{', '.join(map(str, steps))} (or latest, best)"
            )
        return steps[::-1]

    def read_metadata(self, step: int) -> dict[str, Any]:
        """Return what the step was saved with; its file is compared with its hash."""
        return self._read_document(step)["metadata"]

    def restore(self, step: int, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Read items of a step. Every host calls this.

        Args:
            step: which.
            wanted: by item, a tree of `ShapeDtypeStruct`. Parameters that are read alone are cast
                from one floating dtype to another.

        Raises:
            MismatchError: other names, shapes or dtypes are stored.
            NoCheckpointError: the files are damaged, which are named, or cannot be read.
        """
        fresh, self._fresh = self._fresh, None
        if fresh is None or fresh[0] != step or not fresh[1] >= wanted.keys():
            self.require_whole(step, list(wanted))
        alone = set(wanted) == {PARAMS}
        trees = {item: self._read(step, item, tree, alone) for item, tree in wanted.items()}
        self.require_whole(step, list(wanted))
        return trees

    def require_whole(self, step: int, items: Sequence[str]) -> None:
        """Raise NoCheckpointError unless these items of a step are whole. Every host calls this."""
        self._read_document(step)  # "there is none" is another message than "it is damaged"
        if problem := self.find_problem(step, items):
            raise NoCheckpointError(f"step {step} is damaged: {problem}; {self._others()}")

    def _read(self, step: int, item: str, abstract: Any, cast_floats: bool) -> Any:
        folder, document = self._folder(step), self._read_document(step)
        specs = named_specs(abstract)
        wanted = {name: ArraySpec(spec.shape, np.dtype(spec.dtype)) for name, spec in specs.items()}
        try:
            stored = self._files.specs(folder, item) if item in document["items"] else {}
            if difference := describe_difference(stored, wanted, cast_floats):
                raise MismatchError(
                    f"{item} of checkpoint {folder} do not match this config: {difference}"
                )
            arrays = self._files.read(folder, item, specs) if specs else {}
        except MismatchError:
            raise
        except Exception as error:
            if is_machine_error(error):
                raise
            raise NoCheckpointError(
                f"checkpoint {folder} cannot be read: {describe_error(error)}; {self._others()}"
            ) from error
        return refill(abstract, arrays)

    def _read_document(self, step: int) -> dict[str, Any]:
        folder = self._folder(step)
        if not folder.is_dir():
            raise NoCheckpointError(
                f"no checkpoint of step {step} in {self._directory}; {self._others()}"
            )
        try:
            return read_document(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if is_machine_error(error):
                raise
            problem = find_obvious_problem(folder)
            raise NoCheckpointError(
                f"step {step} is damaged: {problem}; {self._others()}"
            ) from None

    def _folder(self, step: int) -> Path:
        return step_folders.step_folder(self._directory, step)

    def _others(self) -> str:
        return f"complete checkpoints: {', '.join(map(str, self.complete())) or 'none'}"

    def why_none(self) -> str:
        """Return the reason why no step here is whole."""
        problems = [
            find_obvious_problem(self._folder(step)) or "its content is damaged"
            for step in step_folders.named_steps(self._directory)
        ]
        if not problems:
            return f"no complete checkpoint in {self._directory}; train first"
        return f"no whole checkpoint in {self._directory}: {'; '.join(problems[-3:])}"


def describe_error(error: BaseException) -> str:
    """Return an exception's type and text, short and without line breaks."""
    return f"{type(error).__name__}: {one_line(error, 300)}"


def describe_failure(error: BaseException) -> str:
    """Return one line on why a save failed; for a lack of room, in the system's words. Deleting
    what has no room may fail as well, with an error that hides the first one.
    """
    for link in _chain(error):
        for number in _errno_of(link) & _NO_ROOM:
            reason, line = os.strerror(number), describe_error(link)
            return line if reason in line else f"{reason}: {line}"
    return describe_error(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the error that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _errno_of(error: BaseException) -> set[int]:
    if isinstance(error, OSError):
        return set() if error.errno is None else {error.errno}
    return {int(number) for number in _ERRNO_IN_TEXT.findall(str(error))}
