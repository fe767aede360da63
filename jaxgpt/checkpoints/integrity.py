"""Hashes of a folder's files: written with the files, compared before the files are used.

    integrity.json      {"version", "algorithm", "files": {PATH: {"bytes", "hash"}}, "hash"}

`hash` is of the manifest itself, which has one spelling only: no byte of it can change unnoticed.
The hash is XXH3 of 128 bits: it detects changed bits as well as SHA-256 does, which is six times
slower and would cost minutes on a large checkpoint. Neither is a signature: with access to the
files one can rewrite the manifest.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from jaxgpt.errors import MismatchError, is_machine_error
from jaxgpt.storage.durable import sync_file, write_atomically

MANIFEST = "integrity.json"
ALGORITHM = "xxh3_128"
MANIFEST_VERSION = 1
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class FileHash:
    """Size and hash of a file when it was written."""

    bytes: int
    hash: str


@dataclass(frozen=True)
class Damage:
    """One file that differs from what was written; `path` is relative to the folder."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path} {self.problem}"


def list_files(root: Path, within: Iterable[str] = (".",)) -> list[str]:
    """Return all files below `root` but its manifest: relative paths with `/`, sorted.

    Args:
        root: a folder.
        within: files or folders of `root` to look at.
    """
    found = []
    for name in within:
        if (root / name).is_file():
            found.append(name)
        for folder, _, names in os.walk(root / name):
            found += [(Path(folder) / file).relative_to(root).as_posix() for file in names]
    return sorted(set(found) - {MANIFEST})


def hash_files(root: Path, paths: Iterable[str]) -> dict[str, FileHash]:
    """Return size and hash of each file, by its path.

    Raises:
        OSError: one cannot be read.
    """
    return {path: _hash_file(root / path) for path in paths}


def hash_written(root: Path, paths: Sequence[str]) -> dict[str, FileHash]:
    """Hash files just written, make them durable, and compare with what the storage returns.

    Raises:
        OSError: one cannot be written or read, or comes back changed.
    """
    written = hash_files(root, paths)
    for path in paths:
        sync_file(root / path, forget=True)
    for path, found in hash_files(root, paths).items():
        if found != written[path]:
            raise OSError(f"the storage does not return what was written to {root / path}")
    return written


def write_manifest(root: Path, files: Mapping[str, FileHash]) -> None:
    """Write `root`'s manifest; the files are there already."""
    content = {
        "version": MANIFEST_VERSION,
        "algorithm": ALGORITHM,
        "files": {path: asdict(files[path]) for path in sorted(files)},
    }
    write_atomically(root / MANIFEST, _spell(content | {"hash": _hash_content(content)}))


def read_manifest(root: Path) -> dict[str, FileHash] | Damage:
    """Return the content of `root`'s manifest, or what is wrong with it.

    Raises:
        MismatchError: it is whole, and of another format.
    """
    try:
        text = (root / MANIFEST).read_bytes()
    except FileNotFoundError:
        return Damage(MANIFEST, "is missing")
    except OSError as error:
        if is_machine_error(error):
            raise
        return Damage(MANIFEST, f"cannot be read: {error.strerror}")
    return parse_manifest(text, root)


def read_fingerprint(root: Path, within: Sequence[str]) -> str:
    """Return one hash of some files or folders of `root`, from what its manifest says of them.

    Raises:
        MismatchError: there is none, or it is damaged.
    """
    if isinstance(manifest := read_manifest(root), Damage):
        raise MismatchError(f"{describe_damage(root, [manifest])}; `jaxgpt verify` tells more")
    entries = {path: asdict(entry) for path, entry in manifest.items() if is_within(path, within)}
    return _hash_content(entries)


def parse_manifest(text: bytes, root: Path | str) -> dict[str, FileHash] | Damage:
    """Return the content of a manifest's bytes, or what is wrong with them; `root` is for messages.

    Raises:
        MismatchError: it is whole, and of another format.
    """
    try:
        content = json.loads(text)
        stated = content.pop("hash")
    except (ValueError, AttributeError, KeyError, TypeError):
        return Damage(MANIFEST, "is empty" if not text else "is damaged")
    if stated != _hash_content(content) or text.decode() != _spell(content | {"hash": stated}):
        return Damage(MANIFEST, "is damaged: its own checksum does not match")
    format_of = (content.get("version"), content.get("algorithm"))
    if format_of != (MANIFEST_VERSION, ALGORITHM):
        raise MismatchError(
            f"{root}/{MANIFEST} has format {format_of}; this version of jaxgpt reads "
            f"{(MANIFEST_VERSION, ALGORITHM)}: use the version that wrote it"
        )
    return {path: FileHash(**entry) for path, entry in content["files"].items()}


def find_damage(
    root: Path,
    within: Sequence[str] = (".",),
    unread: Sequence[str] = (),
    share: tuple[int, int] = (0, 1),
) -> list[Damage]:
    """Compare a folder with its manifest; an empty result means that it is whole.

    Args:
        root: the folder.
        within: files or folders of it to compare; others are ignored.
        unread: files or folders of these whose sizes are compared, but not their content.
        share: (n, of): hash only the n-th of `of` parts of the bytes, so that hosts divide them.
            Everything else is compared in every share.

    Raises:
        MismatchError: the manifest is of another format.
    """
    manifest = read_manifest(root)
    if isinstance(manifest, Damage):
        return [manifest]
    expected = {path: entry for path, entry in manifest.items() if is_within(path, within)}
    found = set(list_files(root, within))
    # The largest first, one to each host in turn: their shares are about equal.
    ordered = sorted(expected.keys() & found, key=lambda path: (-expected[path].bytes, path))
    own = {path for number, path in enumerate(ordered) if number % share[1] == share[0]}

    def compare(path: str) -> str | None:
        is_read = path in own and not is_within(path, unread)
        return _compare(root / path, expected[path], is_read)

    return compare_files(expected, found, compare)


def compare_files(
    expected: Mapping[str, FileHash], found: Iterable[str], compare: Callable[[str], str | None]
) -> list[Damage]:
    """Return the damage by path: missing and additional files, and what `compare` finds."""
    found = set(found)
    damage = [Damage(path, "was added after the rest was written") for path in found - {*expected}]
    damage += [Damage(path, "is missing") for path in expected.keys() - found]
    for path in expected.keys() & found:
        if problem := compare(path):
            damage.append(Damage(path, problem))
    return sorted(damage, key=lambda item: item.path)


def describe_damage(root: Path | str, damage: Sequence[Damage], shown: int = 3) -> str:
    """Return one line that names the first files."""
    more = f" and {len(damage) - shown} more" if len(damage) > shown else ""
    return f"{root}: {'; '.join(map(str, damage[:shown]))}{more}"


def is_within(path: str, names: Sequence[str]) -> bool:
    """Return whether a relative path is one of these files, or lies in one of these folders."""
    return any(name == "." or path == name or path.startswith(f"{name}/") for name in names)


def _compare(path: Path, expected: FileHash, is_read: bool) -> str | None:
    try:
        size = path.stat().st_size
        found = _hash_file(path) if is_read and size == expected.bytes else None
    except OSError as error:
        if is_machine_error(error):
            raise
        return f"cannot be read: {error.strerror}"
    return describe_difference(expected, FileHash(size, found.hash if found else expected.hash))


def describe_difference(expected: FileHash, found: FileHash) -> str | None:
    """Describe how a file differs from what was written; None if it does not."""
    if found.bytes != expected.bytes:
        return f"has {found.bytes} bytes instead of {expected.bytes}"
    if found.hash != expected.hash:
        return f"has different content from what was written ({found.bytes} bytes)"
    return None


def hash_pieces(pieces: Iterable[bytes]) -> FileHash:
    """Hash a sequence of pieces as one file."""
    digest, size = xxhash.xxh3_128(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return FileHash(size, digest.hexdigest())


def _hash_file(path: Path) -> FileHash:
    digest, size = xxhash.xxh3_128(), 0
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])  # Without the interpreter's lock: training goes on.
            size += count
    return FileHash(size, digest.hexdigest())


def _hash_content(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(_spell(content).encode()).hexdigest()


def _spell(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
