"""Verification of a run at a URL: every object that has a hash is read and hashed again."""

from jaxgpt.checkpoints import step_folders
from jaxgpt.checkpoints.integrity import (
    MANIFEST,
    Damage,
    FileHash,
    compare_files,
    describe_difference,
    hash_pieces,
    parse_manifest,
)
from jaxgpt.checkpoints.remote.steps import RemoteSteps
from jaxgpt.checkpoints.verification import CHECKPOINTS, RUN_FILES, Verification
from jaxgpt.errors import UsageError
from jaxgpt.storage.remote_folder import RemoteFolder


def verify_remote_run(url: str) -> Verification:
    """Verify a run at a URL as `verify_run` does for a folder; nothing is kept on this machine.

    Raises:
        UsageError: there is no run.
        MismatchError: it was written by a later version.
        StoreError: the store does not answer.
    """
    folder = RemoteFolder(url)
    objects = folder.list()
    if not objects:
        raise UsageError(f"no run folder at {url}; python -m jaxgpt.train writes one")
    found, steps = Verification(), RemoteSteps(folder)
    described = {
        path: size for path, size in objects.items() if path.split("/")[0] in (*RUN_FILES, MANIFEST)
    }
    _add(found, "", described, _find_damage(folder, described))
    for step, sizes in steps.objects().items():
        if MANIFEST not in sizes or step_folders.REASON_FILE in sizes:
            continue
        damage = steps.find_damage(step, sizes)
        if damage and steps.read_manifest(step) is None:
            continue  # Deleted meanwhile, as old steps are.
        _add(found, f"{CHECKPOINTS}/{step}/", sizes, damage)
        found.steps[step] = not damage
    if not found.steps:
        found.damage[CHECKPOINTS] = "holds no checkpoint"
    names = {path.split("/")[1] for path in objects if path.startswith(f"{CHECKPOINTS}/")}
    found.set_aside = sorted(names - set(map(str, found.steps)))
    return found


def _add(found: Verification, prefix: str, sizes: dict[str, int], damage: list[Damage]) -> None:
    found.damage |= {f"{prefix}{item.path}": item.problem for item in damage}
    found.files += len(sizes)
    found.bytes += sum(sizes.values())


def _find_damage(folder: RemoteFolder, sizes: dict[str, int]) -> list[Damage]:
    """Compare a run's description with its manifest."""
    if MANIFEST not in sizes:
        return [Damage(MANIFEST, "is missing")]
    expected = parse_manifest(folder.read(MANIFEST), folder.url)
    if isinstance(expected, Damage):
        return [expected]

    def compare(path: str) -> str | None:
        found: FileHash = folder.read_by(path, hash_pieces)
        return describe_difference(expected[path], found)

    return compare_files(expected, sizes.keys() - {MANIFEST}, compare)
