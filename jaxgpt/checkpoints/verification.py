"""Verification of a run: every byte that has a hash is read and hashed again. That is each whole
step below checkpoints/, with its manifest, and the files that all steps depend on: config, lineage,
tokenizer. Files that a run appends to (metrics, events, report) have no hashes.
"""

from dataclasses import dataclass, field
from pathlib import Path

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.integrity import MANIFEST, find_damage, list_files
from jaxgpt.errors import UsageError
from jaxgpt.names.nearby_paths import describe_nearby_runs

CHECKPOINTS = "checkpoints"
# What a run folder says of the run, hashed together in its own manifest.
RUN_FILES = ("config.json", "env.json", "lineage.json", "tokenizer", "reference.npz")


@dataclass
class Verification:
    """Result of verifying a run folder.

    Attributes:
        damage: each damaged file, relative to the run folder, and what is wrong with it.
        steps: all steps, with whether each is whole.
        set_aside: other folders below checkpoints/, which no command reads: damaged, abandoned or
            unfinished steps; they are not checked.
        files, bytes: amount that was compared.
    """

    damage: dict[str, str] = field(default_factory=dict)
    steps: dict[int, bool] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


def verify_run(run_dir: Path) -> Verification:
    """Read and hash all of a run, which may be training meanwhile.

    Raises:
        UsageError: there is no such folder.
        MismatchError: it was written by a later version.
    """
    if not run_dir.is_dir():
        raise UsageError(f"no run folder at {run_dir}{describe_nearby_runs(run_dir)}")
    found, directory = Verification(), run_dir / CHECKPOINTS
    _add(found, run_dir, "", RUN_FILES)
    for step in step_folders.named_steps(directory):
        before = len(found.damage)
        if _add(found, step_folders.step_folder(directory, step), f"{CHECKPOINTS}/{step}/"):
            found.steps[step] = len(found.damage) == before
    if not found.steps:
        found.damage[CHECKPOINTS] = "holds no checkpoint"
    if directory.is_dir():
        names = {path.name for path in directory.iterdir()} - set(map(str, found.steps))
        found.set_aside = sorted(names)
    return found


def _add(found: Verification, folder: Path, prefix: str, within: tuple[str, ...] = (".",)) -> bool:
    """Add the result of a folder; return False if it was deleted meanwhile, as old steps are."""
    damage = find_damage(folder, within)
    try:
        sizes = [
            (folder / path).lstat().st_size for path in [*list_files(folder, within), MANIFEST]
        ]
    except FileNotFoundError:
        sizes = []
    if not folder.is_dir():
        return False
    found.damage |= {f"{prefix}{item.path}": item.problem for item in damage}
    found.files += len(sizes)
    found.bytes += sum(sizes)
    return True
