"""Steps of a run at a URL: written, counted and deleted in a store that cannot rename. A step
counts if its manifest is there. So the manifest is written last, after all else was read back and
compared, and deleted first. A damaged step gets a `damaged.json` and no longer counts. A download
goes to a folder of another name, is compared with its manifest, then renamed.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.integrity import (
    MANIFEST,
    Damage,
    FileHash,
    compare_files,
    describe_difference,
    hash_files,
    hash_pieces,
    is_within,
    parse_manifest,
    write_manifest,
)
from jaxgpt.checkpoints.retention import Evaluation, read_evaluation
from jaxgpt.checkpoints.step_content import METADATA_FILE
from jaxgpt.checkpoints.verification import CHECKPOINTS
from jaxgpt.storage.durable import sync_tree
from jaxgpt.storage.remote_folder import RemoteFolder, StoreError


class DamagedError(Exception):
    """The store holds other bytes than were written; the message names the object."""


class RemoteSteps:
    """The folder `checkpoints/` of a run folder at a URL."""

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder

    def objects(self) -> dict[int, dict[str, int]]:
        """Return the sizes of each step's objects, by their paths in the step; ascending."""
        found: dict[int, dict[str, int]] = {}
        for path, size in self._folder.list(CHECKPOINTS).items():
            _, name, *rest = path.split("/")
            if rest and (step := step_folders.step_of(name)) is not None:
                found.setdefault(step, {})["/".join(rest)] = size
        return dict(sorted(found.items()))

    def counted(self) -> list[int]:
        """Return the steps that count, ascending."""
        return [
            step
            for step, names in self.objects().items()
            if MANIFEST in names and step_folders.REASON_FILE not in names
        ]

    def read_manifest(self, step: int) -> bytes | None:
        """Return the bytes of a step's manifest; None if it has none."""
        try:
            return self._folder.read(_path(step, MANIFEST))
        except FileNotFoundError:
            return None

    def read_evaluation(self, step: int) -> Evaluation | None:
        """Return the evaluation that a step was saved with, if it can be read."""
        try:
            document = json.loads(self._folder.read(_path(step, METADATA_FILE)))
            return read_evaluation(document["metadata"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def upload(self, directory: Path, step: int, before_it_counts: Callable[[], None]) -> None:
        """Copy a whole local step there.

        Args:
            directory: of the local checkpoints.
            step: which.
            before_it_counts: called when all but the manifest is written.

        Raises:
            StoreError: the store refuses the write, or does not return what was written.
            OSError: a local file cannot be read.
        """
        local = step_folders.step_folder(directory, step)
        manifest = (local / MANIFEST).read_bytes()
        files = parse_manifest(manifest, local)
        if isinstance(files, Damage):
            raise StoreError(f"not copied because it is damaged on this machine: {local}/{files}")
        self.delete(step)  # What an attempt that failed, or a path that was left, has there.
        for path, written in files.items():
            self._upload(local / path, _path(step, path), written)
        before_it_counts()
        self._folder.write(_path(step, MANIFEST), manifest)

    def download(self, step: int, directory: Path, without: Sequence[str] = ()) -> None:
        """Download a step to a local folder of checkpoints, which has no step of its name.

        Args:
            step: which.
            directory: of the local checkpoints.
            without: folders of the step to leave out, also from the local manifest.

        Raises:
            DamagedError: the store holds other bytes than were written.
            StoreError: the store does not answer.
        """
        where = self._where(step)
        files = self._parse(step, self.read_manifest(step))
        if isinstance(files, Damage):
            raise DamagedError(f"{where}{files}")
        files = {path: written for path, written in files.items() if not is_within(path, without)}
        step_folders.discard_staging(directory, step)
        staging = step_folders.staging_folder(directory, step)
        for path, written in files.items():
            if not (staging / path).resolve().is_relative_to(staging.resolve()):
                raise DamagedError(f"{where}{path} would lie outside the step's folder")
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            if problem := self._download(_path(step, path), staging, path, written):
                raise DamagedError(f"{where}{path} {problem}")
        write_manifest(staging, files)
        sync_tree(staging)
        step_folders.commit(directory, step)

    def set_aside(self, step: int, reason: str) -> None:
        """Mark a step as damaged: it no longer counts, and is kept for inspection."""
        content = json.dumps({"step": step, "reason": reason}, indent=2) + "\n"
        self._folder.write(_path(step, step_folders.REASON_FILE), content.encode())

    def delete(self, step: int) -> None:
        """Delete a step; it stops counting at once."""
        names = self.objects().get(step, {})
        last = sorted(names, key=lambda name: name != MANIFEST)
        self._folder.delete(_path(step, name) for name in last)

    def find_damage(self, step: int, sizes: dict[str, int]) -> list[Damage]:
        """Read all of a step and compare it with its manifest; `sizes` from `objects`.

        Raises:
            StoreError: the store does not answer.
        """
        files = self._parse(step, self.read_manifest(step))
        if isinstance(files, Damage):
            return [files]

        def compare(path: str) -> str | None:
            try:
                return describe_difference(files[path], self._hash(_path(step, path)))
            except FileNotFoundError:
                return "is missing"

        return compare_files(files, sizes.keys() - {MANIFEST}, compare)

    def _parse(self, step: int, text: bytes | None) -> dict[str, FileHash] | Damage:
        if text is None:
            return Damage(MANIFEST, "is missing")
        return parse_manifest(text, self._where(step))

    def _where(self, step: int) -> str:
        return f"{self._folder.url}/{_path(step, '')}"

    def _upload(self, file: Path, path: str, written: FileHash) -> None:
        problem: str | None = ""
        for _ in range(2):
            self._folder.upload(file, path)
            problem = describe_difference(written, self._hash(path))
            if problem is None:
                return
        raise StoreError(f"{self._folder.url}/{path} {problem}even after it was copied there twice")

    def _download(self, path: str, root: Path, name: str, written: FileHash) -> str | None:
        problem: str | None = ""
        for _ in range(2):  # What was changed on its way is not damaged there.
            try:
                self._folder.download(path, root / name)
            except FileNotFoundError:
                return "is missing"
            problem = describe_difference(written, hash_files(root, [name])[name])
            if problem is None:
                return None
        return problem

    def _hash(self, path: str) -> FileHash:
        return self._folder.read_by(path, hash_pieces)


def _path(step: int, name: str) -> str:
    return f"{CHECKPOINTS}/{step}/{name}"
