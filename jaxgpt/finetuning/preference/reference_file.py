"""Log-probabilities of answers under the model that a run began with, kept in the run's folder.

They are computed before the first step, and read when the run is resumed or evaluated: on other
devices the same model gives other last bits.
"""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxgpt.checkpoints.integrity import MANIFEST, describe_damage, find_damage
from jaxgpt.distributed.hosts import broadcast_from_first, is_first_host
from jaxgpt.errors import MismatchError, UnfinishedError
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.finetuning.preference.reference import REFERENCE
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.storage.durable import write_atomically

# One of the files that a run is described by; arrays [E, 2] by the fingerprints of the model and of
# the examples.
FILE_NAME = "reference.npz"


def read_reference(directory: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a run folder; none if it has no such file.

    Raises:
        MismatchError: the file is not what was written.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return {}
    # Without a manifest the run was killed before its first step, after the file was written.
    damage = [each for each in find_damage(directory, (FILE_NAME,)) if each.path != MANIFEST]
    if damage:
        raise MismatchError(
            f"{describe_damage(directory, damage)}; put back a copy of the file, or choose another "
            "--run-dir"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def write_reference(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays, all at once; the manifest, which has an older hash, is written later."""
    (directory / MANIFEST).unlink(missing_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(directory / FILE_NAME, buffer.getvalue())


def with_reference(
    sides: tuple[PackedRows, ...],
    directory: Path,
    score: Callable[[PackedRows], np.ndarray],
    base: str,
    is_kept: bool,
) -> tuple[TokenizedExamples, ...]:
    """Return the examples of some rows with the log-probabilities of their answers.

    Args:
        sides: rows for training and held-out ones, or some of them.
        directory: the run's folder.
        score: computes what the folder does not have, on all hosts together.
        base: fingerprint of the model that scores.
        is_kept: whether to write what was computed into the folder.

    Raises:
        MismatchError: the file is not what was written.
        UnfinishedError: the first host sees the file, and this one does not.
    """
    known = read_reference(directory)
    names = [f"{base}:{rows.examples.fingerprint}" for rows in sides]
    by_name = dict(zip(names, sides, strict=True))
    # One host decides: a host that computes alone would wait for the others without end.
    missing = broadcast_from_first("missing references", [n for n in by_name if n not in known])
    if by_name.keys() - known.keys() - {*missing}:
        raise UnfinishedError(
            f"the first host sees {directory / FILE_NAME}, and this one does not; a run's folder "
            "must be shared by all hosts. Run the same command again when it is"
        )
    if missing:
        known |= {name: score(by_name[name]) for name in missing}
        if is_kept and is_first_host():
            write_reference(directory, known)
    return tuple(
        dataclasses.replace(
            rows.examples,
            labels={**rows.examples.labels, REFERENCE: known[name]},
        )
        for name, rows in zip(names, sides, strict=True)
    )
