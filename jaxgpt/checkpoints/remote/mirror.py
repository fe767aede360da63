"""Mirror of a run: written to a local folder and, step by step, copied to a URL. The local folder
has the same guarantees as without a URL. `fetch` updates it from the URL at a start; `push` updates
the URL from it after each save. A failed push is reported, and the next one makes up for it,
because it copies all that is missing.
"""

import json
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.integrity import MANIFEST
from jaxgpt.checkpoints.remote.steps import DamagedError, RemoteSteps
from jaxgpt.checkpoints.retention import (
    Evaluation,
    evaluated_steps_to_keep,
    read_evaluation,
)
from jaxgpt.checkpoints.step_content import (
    ITEMS,
    find_content_problem,
    find_obvious_problem,
    read_document,
)
from jaxgpt.checkpoints.stored_steps import describe_error
from jaxgpt.checkpoints.verification import CHECKPOINTS, RUN_FILES
from jaxgpt.distributed.hosts import abandon
from jaxgpt.errors import JaxgptError, NoCheckpointError, UnfinishedError
from jaxgpt.storage.durable import write_atomically, write_json
from jaxgpt.storage.remote_folder import RemoteFolder, StoreError
from jaxgpt.storage.writer_lease import FILE_NAME, Lease, ReplacedError

logger = logging.getLogger(__name__)

_IDENTITY = ".remote.json"


class RemoteCopy:
    """A context in which this process is the writer of a run at a URL.

    Args:
        run_dir: the local folder, which is locked by this process.
        url: of the run.
        config: which steps to keep there; the same as here.

    Raises:
        UsageError: another process writes there.
        NoCheckpointError: all steps there are damaged.
        StoreError: the store does not answer.
    """

    def __init__(self, run_dir: Path, url: str, config: CheckpointConfig) -> None:
        self._run_dir = run_dir
        self._directory = run_dir / CHECKPOINTS
        self._folder = RemoteFolder(url)
        self._steps = RemoteSteps(self._folder)
        self._config = config
        self._lease = Lease(self._folder, _identity(run_dir))
        self._sent: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> "RemoteCopy":
        is_ours = self._lease.take()
        try:
            self._folder.remove_leftovers()
            self.fetch(is_ours)
        except BaseException:
            self._lease.release()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        problem = self.push()
        try:
            self._lease.release()
        except UnfinishedError as failure:
            problem = problem or describe_error(failure)
        if problem and error is None:
            raise UnfinishedError(
                f"the run is saved in {self._run_dir} but not at {self._folder.url}: {problem}. "
                "Run the same command again on this machine"
            )

    def push(self) -> str | None:
        """Copy all that is missing at the URL; return what went wrong. It is called after each step
        in the thread that saves, and the next save waits for it. A process that was replaced as the
        writer ends here.
        """
        try:
            self._lease.require()
            self._copy_steps()
            self._copy_files()
        except ReplacedError as error:
            abandon(error.exit_code, str(error))
        except (OSError, ValueError, JaxgptError) as error:
            problem = describe_error(error)
            logger.warning("not copied to %s: %s", self._folder.url, problem)
            return problem
        return None

    def fetch(self, is_ours: bool) -> None:
        """Update the local folder from the URL.

        Args:
            is_ours: the URL was written from this folder, which is the same or newer.
        """
        step_folders.prepare(self._directory, find_obvious_problem)
        counted = self._steps.counted()
        if counted and not is_ours:
            self._leave_other_steps()
            self._fetch_files()
        here, damaged = self._whole_steps(), set[int]()
        # What is found damaged may be listed for some time yet.
        while missing := self._missing_steps(here, damaged, newer_only=is_ours):
            step = missing[0]
            logger.info("fetching step %d from %s", step, self._folder.url)
            try:
                self._steps.download(step, self._directory)
                here.append(step)
            except DamagedError as error:
                logger.warning("step %d is skipped because it is damaged: %s", step, error)
                damaged.add(step)
                if self._steps.read_manifest(step) is not None:
                    self._steps.set_aside(step, str(error))
        if counted and not here:
            self._refuse(sorted(damaged))

    def _copy_steps(self) -> None:
        here = step_folders.complete_steps(self._directory, find_obvious_problem)
        if not here:
            return
        there = self._steps.counted()
        # First what the run has gone back from: a start elsewhere must not find it.
        for step in [step for step in there if step > here[-1]]:
            self._steps.delete(step)
        there = [step for step in there if step <= here[-1]]
        kept = self._to_keep({*here, *there}, self._config.keep_every_steps)
        for step in reversed(here):
            if step in kept and self._manifest(step) != self._steps.read_manifest(step):
                self._steps.upload(self._directory, step, self._copy_files)
        for step in [step for step in there if step not in kept]:
            self._steps.delete(step)

    def _copy_files(self) -> None:
        """Copy all changed files except checkpoints."""
        stamps = {}
        for path in self._run_dir.rglob("*"):
            name = path.relative_to(self._run_dir).as_posix()
            if _is_copied(name) and path.is_file():
                about = path.stat()
                stamps[name] = about.st_mtime_ns, about.st_size
        changed = [name for name, stamp in stamps.items() if self._sent.get(name) != stamp]
        # Beside a manifest lies what it says, or there is none.
        if described := [name for name in changed if name.split("/")[0] in (*RUN_FILES, MANIFEST)]:
            self._folder.delete([MANIFEST])
            changed += [MANIFEST] if MANIFEST in stamps and MANIFEST not in described else []
        for name in sorted(changed, key=lambda name: name == MANIFEST):
            # At once, for what is read may be growing.
            self._folder.write(name, (self._run_dir / name).read_bytes())
            self._sent[name] = stamps[name]

    def _fetch_files(self) -> None:
        names = [name for name in self._folder.list() if _is_copied(name)]
        for name in sorted(names, key=lambda name: name == MANIFEST):
            target = self._run_dir / name
            if not target.resolve().is_relative_to(self._run_dir.resolve()):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, self._folder.read(name))

    def _leave_other_steps(self) -> None:
        """Set aside local steps that differ from those at the URL, which others have written."""
        for step in step_folders.named_steps(self._directory):
            own = self._manifest(step)
            if own is None or own != self._steps.read_manifest(step):
                aside = step_folders.abandon(self._directory, step)
                logger.warning(
                    "%s: set aside, since step %d at the URL is another one", aside, step
                )

    def _whole_steps(self) -> list[int]:
        """Return the local steps, with a whole newest one: damage here is repaired from the URL."""
        here = step_folders.complete_steps(self._directory, find_obvious_problem)
        while here:
            folder = step_folders.step_folder(self._directory, here[-1])
            problem = find_content_problem(folder, ITEMS, (0, 1))
            if problem is None:
                break
            step_folders.quarantine(self._directory, here.pop(), problem)
        return here

    def _missing_steps(self, here: list[int], damaged: set[int], newer_only: bool) -> list[int]:
        """Return the steps to fetch, the newest first.

        Steps that are kept for good are not fetched: only a far rollback would read them.
        """
        newest = max(here, default=-1) if newer_only else -1
        kept = self._to_keep({*self._steps.counted()} - damaged, None)
        return sorted((step for step in kept - {*here} if step > newest), reverse=True)

    def _to_keep(self, steps: Iterable[int], keep_every_steps: int | None) -> set[int]:
        evaluations = {step: self._evaluation(step) for step in steps}
        config = self._config
        return evaluated_steps_to_keep(
            evaluations, config.keep_latest, keep_every_steps, config.keep_best
        )

    def _refuse(self, damaged: list[int]) -> None:
        there = [step for step in damaged if self._steps.read_manifest(step) is not None]
        if not there:
            raise StoreError(
                f"{self._folder.url}: these steps were listed but are missing: "
                f"{', '.join(map(str, damaged))}; run the same command again"
            )
        raise NoCheckpointError(
            f"{self._folder.url} holds no whole checkpoint, only damaged "
            f"{', '.join(map(str, there))} (the reason is in their damaged.json); choose "
            "another --run-dir, or delete this one to start over"
        )

    def _evaluation(self, step: int) -> Evaluation | None:
        folder = step_folders.step_folder(self._directory, step)
        try:
            return read_evaluation(read_document(folder)["metadata"])
        except (OSError, ValueError):
            return self._steps.read_evaluation(step)

    def _manifest(self, step: int) -> bytes | None:
        try:
            return (step_folders.step_folder(self._directory, step) / MANIFEST).read_bytes()
        except FileNotFoundError:  # Of a version without hashes.
            return None


def _is_copied(name: str) -> bool:
    """Return whether a file of a run folder is kept in both places; steps are not."""
    parts = name.split("/")
    return parts[0] not in (CHECKPOINTS, FILE_NAME) and not any(p.startswith(".") for p in parts)


def _identity(run_dir: Path) -> str:
    """Return the unique name of this folder, made once."""
    path = run_dir / _IDENTITY
    try:
        return json.loads(path.read_text("utf-8"))["writer"]
    except (OSError, ValueError, KeyError):
        writer = secrets.token_hex(16)
        write_json(path, {"writer": writer})
        return writer
