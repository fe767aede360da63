"""Input files: paths, folders, globs and URLs become one sorted list.

The list is the same whatever the order of the arguments, holds no file twice, and follows no
link that the user did not name. What a file contains is for `records.py`.
"""

import fnmatch
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from jaxgpt.config import configclass
from jaxgpt.corpus.documents.document import escape_name, escape_path
from jaxgpt.corpus.execution.machine_errors import explain, is_fault_of_machine
from jaxgpt.corpus.readers.file_kinds import RECORD_SUFFIXES, kind_of
from jaxgpt.corpus.readers.glob_matches import list_matches
from jaxgpt.corpus.readers.html import Policy
from jaxgpt.corpus.readers.passed_over import PassedOver
from jaxgpt.corpus.readers.streams import DECODERS, WINDOW_BYTES
from jaxgpt.errors import UsageError
from jaxgpt.names.nearby_paths import describe_nearby_files
from jaxgpt.storage.remote_folder import missing_package

logger = logging.getLogger(__name__)

# How much text a stored byte holds, roughly. Only the size of work units depends on it.
_EXPANSION = {"": 1.0, ".gz": 3.0, ".zst": 3.5, ".bz2": 4.0, ".xz": 4.0}
_GLOB_CHARACTERS = frozenset("*?[")
_PROBE_BYTES = 1 << 13


@configclass
class SourcesConfig:
    """Reading of the input, and limits on bad input."""

    text_key: str = "text"
    """Key (JSON) or column (Parquet, CSV, TSV) that holds a record's text."""
    exclude: tuple[str, ...] = ()
    """Patterns of files in input folders to leave out, such as "*/tests/*", matched against "/" and
    the path within the folder."""
    html: Policy = "files"
    """Web pages of which only the main text is kept. files: those in .html, .htm and .xhtml files;
    records: also records and other files that begin like a page; keep: none, markup stays."""
    max_page_elements: int = 50_000
    """Most elements of a web page; a larger page is dropped, because the time to find its main text
    grows faster than its size."""
    max_record_bytes: int = 8 << 20
    """Most bytes of a record: a longer JSON line is dropped and counted, a longer text file becomes
    several documents."""
    max_bad_share: float = 0.01
    """Share of malformed records above which the build stops."""
    truncated_files: Literal["keep", "refuse"] = "keep"
    """Treatment of a file that ends early or is damaged: keep the records before the damage, or
    stop."""
    max_file_bytes: int = 256 << 30
    """Most decompressed bytes to read from a compressed file."""
    max_expansion: float = 200.0
    """Most decompressed bytes per stored byte of a compressed file, beyond its first 64 MiB."""
    max_window_bytes: int = WINDOW_BYTES
    """Most memory for the window of a .zst or .xz file; `zstd --long=31` needs 2147483648."""

    def __post_init__(self) -> None:
        for name in ("max_page_elements", "max_record_bytes", "max_file_bytes", "max_expansion"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}; it must be at least 1")
        if not 1 << 20 <= self.max_window_bytes <= 1 << 31:
            raise ValueError(
                f"max_window_bytes = {self.max_window_bytes}; it must lie in [{1 << 20}, {1 << 31}]"
            )
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share = {self.max_bad_share}; it must lie in [0, 1]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read.

    Attributes:
        name: what people see, and the first part of a location; valid Unicode.
        path: what is opened: a local path, or a URL.
        kind: "text", "jsonl", "json", "parquet", "csv" or "tsv".
        compression: "" or the suffix of it, such as ".gz".
        size: stored bytes.
        stamp: changes when the file does: its modification time, or a store's equivalent.
        source: source of its documents that name none.
    """

    name: str
    path: str
    kind: str
    compression: str
    size: int
    stamp: str
    source: str

    @property
    def estimated_text_bytes(self) -> int:
        """Return a rough estimate of the bytes of text in the file."""
        return int(self.size * (2.0 if self.kind == "parquet" else _EXPANSION[self.compression]))

    def open(self) -> BinaryIO:
        """Open the file to read its stored bytes."""
        if "://" not in self.path:
            return open(self.path, "rb")
        filesystem, path = _filesystem(self.path, "input")
        return filesystem.open(path, "rb")


@dataclass(frozen=True)
class Inputs:
    """All files to read, sorted by name bytewise.

    Attributes:
        skipped: files and folders that are not read, by reason.
        passed_over: the same for people: lines with endings and examples.
    """

    files: tuple[InputFile, ...]
    skipped: dict[str, int]
    passed_over: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Return the stored bytes of all files."""
        return sum(file.size for file in self.files)


def find_inputs(
    arguments: Sequence[str],
    output: Path | None,
    exclude: Sequence[str] = (),
    option: str = "--input",
) -> Inputs:
    """List the files that `arguments` name; `output`, the output folder, is never an input.

    Files found in folders are left out if a pattern of `exclude` matches, see `SourcesConfig`. What
    is passed over is logged; errors name `option`, with which the arguments were given. Raises:
        UsageError: an argument names nothing, or a file of no kind that can be read.
        JaxgptError: a folder cannot be listed; its files would be left out silently.
    """
    if not arguments:
        raise UsageError(f"{option} names nothing; give files, folders, globs or URLs")
    finder = _Finder("" if output is None else os.path.realpath(output), exclude, option)
    for argument in arguments:
        try:
            finder.add(argument)
        except OSError as error:
            if is_fault_of_machine(error):
                raise explain(error, escape_path(os.fspath(error.filename or argument))) from error
            raise
    files = tuple(finder.unique_files())
    for line in finder.passed_over.describe():
        logger.info("passed over: %s", line)
    skipped = dict(sorted(finder.passed_over.counts.items()))
    return Inputs(files, skipped, finder.passed_over.describe())


class _Finder:
    """Collects files; each way to name them is one method."""

    def __init__(self, output: str, exclude: Sequence[str], option: str) -> None:
        self.passed_over = PassedOver()
        self._option = option
        self._output = output
        self._exclude = exclude
        self._found: list[tuple[InputFile, object]] = []

    def add(self, argument: str) -> None:
        if "://" in argument:
            self._add_url(argument)
        elif os.path.lexists(argument):
            self._add_path(os.path.normpath(argument))
        elif _GLOB_CHARACTERS & set(argument):
            matches = sorted(list_matches(argument), key=os.fsencode)
            if not matches:
                raise UsageError(f"{self._option} {argument!r} matches no file")
            for match in matches:
                if os.path.isdir(match):
                    self._add_folder(os.path.normpath(match))
                else:
                    # A link that the user's pattern matches is named like one without a pattern.
                    self._add_file(os.path.normpath(match), os.path.normpath(match), is_named=True)
        else:
            hint = describe_nearby_files(Path(argument))
            raise UsageError(f"{self._option} {argument}: no such file or folder{hint}")

    def unique_files(self) -> Iterator[InputFile]:
        """Return the files, sorted; of several names of one file (links, repeats) the smallest."""
        seen = set()
        for file, identity in sorted(self._found, key=lambda pair: os.fsencode(pair[0].path)):
            if identity in seen:
                self.passed_over.add("same_file", file.path)
            else:
                seen.add(identity)
                yield file

    def _add_path(self, path: str) -> None:
        if os.path.isdir(path):
            self._add_folder(path)
            return
        if not os.path.isfile(path):
            kind = (
                "a broken link" if os.path.islink(path) else "neither a regular file nor a folder"
            )
            raise UsageError(f"{self._option} {path} is {kind}")
        # A file that the user names is followed if a link, and read as text if it looks like it.
        path_kind, compression = kind_of(path)
        self._append_local(path, path_kind or _probe(path, compression, self._option), path)

    def _add_folder(self, top: str) -> None:
        def refuse(error: OSError) -> None:
            path = str(error.filename)
            if self._is_excluded(os.path.join(os.path.relpath(path, top), "")):
                self.passed_over.add("excluded", path)
            elif is_fault_of_machine(error):
                raise error
            else:
                # It went away while we looked.
                self.passed_over.add("unreadable_folder", path)

        for folder, subfolders, names in os.walk(top, onerror=refuse, followlinks=False):
            for name in list(subfolders):
                path = os.path.join(folder, name)
                if reason := self._reason_to_skip_folder(path):
                    self.passed_over.add(reason, path)
                    subfolders.remove(name)
            first_level = os.path.relpath(folder, top).split(os.sep)[0]
            source = top if first_level == os.curdir else os.path.join(top, first_level)
            for name in names:
                path = os.path.join(folder, name)
                if self._is_excluded(os.path.relpath(path, top)):
                    self.passed_over.add("excluded", path)
                else:
                    self._add_file(path, source)

    def _reason_to_skip_folder(self, path: str) -> str | None:
        if os.path.islink(path):
            return "symbolic_link"
        if os.path.realpath(path) == self._output:
            return "output_folder"
        return "hidden" if os.path.basename(path).startswith(".") else None

    def _is_excluded(self, path_in_folder: str) -> bool:
        name = "/" + path_in_folder.replace(os.sep, "/")
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._exclude)

    def _add_file(self, path: str, source: str, is_named: bool = False) -> None:
        """Add a file that was found; count it as not read if its kind is doubtful.

        Args:
            is_named: whether a link is followed.
        """
        kind, _ = kind_of(path)
        if reason := self._reason_to_skip_file(path, kind, is_named):
            self.passed_over.add(reason, path)
        else:
            self._append_local(path, str(kind), source)

    def _reason_to_skip_file(self, path: str, kind: str | None, is_named: bool) -> str | None:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            if not is_named:
                return "symbolic_link"
            try:
                mode = os.stat(path).st_mode
            except OSError as error:
                if is_fault_of_machine(error):
                    raise
                return "broken_link"
        if not stat.S_ISREG(mode):
            return "not_a_regular_file"
        if os.path.basename(path).startswith("."):
            return "hidden"
        return "unknown_kind" if kind is None else None

    def _append_local(self, path: str, kind: str, source: str) -> None:
        status = os.stat(path)
        file = InputFile(
            name=escape_path(path),
            path=path,
            kind=kind,
            compression=kind_of(path)[1],
            size=status.st_size,
            stamp=str(status.st_mtime_ns),
            source=escape_path(source),
        )
        self._found.append((file, (status.st_dev, status.st_ino)))

    def _add_url(self, url: str) -> None:
        filesystem, path = _filesystem(url, self._option)
        try:
            if _GLOB_CHARACTERS & set(path):
                paths, source = filesystem.glob(path), url
            elif filesystem.isdir(path):
                paths, source = filesystem.find(path), url
            else:
                paths, source = [path] if filesystem.exists(path) else [], url
        except Exception as error:  # Each store raises its own kinds.
            raise UsageError(f"{self._option} {url}: {type(error).__name__}: {error}") from error
        if not paths:
            raise UsageError(f"{self._option} {url}: nothing there")
        for found in paths:
            kind, compression = kind_of(found)
            if kind is None and found != path:
                self.passed_over.add("unknown_kind", found)
                continue
            if self._is_excluded(found.removeprefix(path).lstrip("/")):
                self.passed_over.add("excluded", found)
                continue
            name = filesystem.unstrip_protocol(found)
            information = filesystem.info(found)
            file = InputFile(
                name=escape_name(name),
                path=name,
                kind=kind or "text",
                compression=compression,
                size=int(information.get("size") or 0),
                stamp=str(filesystem.ukey(found)),
                source=escape_name(source),
            )
            self._found.append((file, name))


def _filesystem(url: str, option: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    import fsspec

    resolve: Callable[[str], tuple[Any, str]] = fsspec.url_to_fs
    try:
        return resolve(url)
    except ImportError as error:
        raise UsageError(f"{option} {url}: {missing_package(url, error)}") from error
    except ValueError as error:
        raise UsageError(f"{option} {url}: {error}") from error


def _probe(path: str, compression: str, option: str) -> str:
    """Return "text" for a file of unknown suffix that may be text.

    Raises:
        UsageError: it holds NUL bytes, or is an archive of some kind.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_PROBE_BYTES)
    except OSError as error:
        if is_fault_of_machine(error):
            raise
        raise UsageError(f"{option} {path}: {error.strerror}") from error
    if compression == "" and b"\0" not in head:
        return "text"
    known = ", ".join([*RECORD_SUFFIXES, ".txt", ".md", ".rst", ".html", ".py"])
    packed = ", ".join(suffix for suffix in DECODERS if suffix)
    raise UsageError(
        f"{option} {path}: not a kind of file that can be read; known are {known} and other text "
        f"and program files, each plain or with {packed}"
    )
