"""Files of examples -> rows -> examples; bad rows are counted, and refused above a share."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxgpt.corpus.documents.document import Rejected
from jaxgpt.corpus.readers.file_kinds import RECORD_SUFFIXES
from jaxgpt.corpus.readers.readers import FileReader
from jaxgpt.corpus.readers.rows import Row, RowFile
from jaxgpt.corpus.readers.sources import InputFile, SourcesConfig, find_inputs
from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.finetuning.forms.form import BadRowError, Example, Form
from jaxgpt.reports.console import format_count

logger = logging.getLogger(__name__)

_NUM_NAMED = 3
_NUM_KEPT = 20


@dataclass
class BadRows:
    """Rows that are no examples.

    Attributes:
        counts: bad rows by reason.
        first: (place, what is wrong) of the first few.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, location: str, reason: str, detail: str) -> None:
        """Count a bad row."""
        self.counts[reason] += 1
        if len(self.first) < _NUM_KEPT:
            self.first.append((location, detail))

    def describe(self) -> str:
        """Return the counts by reason and the first few rows, in one line."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        named = "; ".join(f"{place}: {detail}" for place, detail in self.first[:_NUM_NAMED])
        return f"{reasons}; first {named}"


@dataclass(frozen=True)
class ReadFile:
    """One file that was read.

    Attributes:
        name: its path or URL.
        form: the form of its rows.
        num_rows: rows, bad ones among them.
        unused: fields of its first row that the form does not read.
    """

    name: str
    form: Form
    num_rows: int
    unused: tuple[str, ...]


@dataclass(frozen=True)
class ReadExamples:
    """Examples in the order of their files.

    Attributes:
        examples: the good rows.
        locations: `path:line` of each.
        files: what was read.
        bad: the rows that are no examples.
    """

    examples: list[Example]
    locations: list[str]
    files: tuple[ReadFile, ...]
    bad: BadRows


def read_rows(paths: Sequence[str], form: Form, max_bad_share: float, option: str) -> ReadExamples:
    """Read all rows of some files, folders, globs or URLs.

    Args:
        form: of every file; `Recognised` looks at each file.
        max_bad_share: share of bad rows above which the data is refused.
        option: what the user gave the paths with, for errors.

    Raises:
        UsageError: a path names nothing, or a file that has no rows.
        BadInputError: a form is not recognised, files have different kinds of examples, or there
            are too many bad rows, or no good one.
        JaxgptError: the machine failed, not a file.
    """
    bad, examples, locations, files = BadRows(), [], [], []
    for file in _find_files(paths, option):
        rows, num_rows = _rows_of(file, bad)
        if not rows:
            continue
        chosen = form.choose(file.name, rows)
        used = {*chosen.required, *chosen.optional}
        used |= {name.partition(".")[0] for name in used}
        unused = tuple(str(name) for name in rows[0].values if name not in used)
        files.append(ReadFile(file.name, chosen, num_rows, unused))
        for row in rows:
            try:
                examples.append(chosen.read(row.values))
                locations.append(row.location)
            except BadRowError as error:
                bad.add(row.location, error.reason, error.detail)
    _check_kinds(files)
    num_rows = len(examples) + bad.counts.total()
    _check_bad(bad, num_rows, max_bad_share)
    if not examples:
        raise BadInputError(
            f"{option} {' '.join(paths)}: no example in {format_count(num_rows, 'row')}; give "
            "files that have rows"
        )
    return ReadExamples(examples, locations, tuple(files), bad)


def _find_files(paths: Sequence[str], option: str) -> list[InputFile]:
    """Return the files with rows; files of plain text in folders are passed over.

    Raises:
        UsageError: a named file is of another kind, or nothing has rows.
    """
    files = find_inputs(paths, None, option=option).files
    with_rows = [file for file in files if file.kind != "text"]
    for file in files:
        if file.kind == "text" and (file.path in paths or not with_rows):
            raise UsageError(
                f"{option} {file.name}: no file of rows; allowed: {', '.join(RECORD_SUFFIXES)}, "
                "each plain or compressed"
            )
    return with_rows


def _rows_of(file: InputFile, bad: BadRows) -> tuple[list[Row], int]:
    """Return the rows of a file that could be read, and the number of all."""
    reader, rows, num_rows = FileReader(file, SourcesConfig(), RowFile), [], 0
    for record in reader:
        num_rows += 1
        if isinstance(record, Row):
            rows.append(record)
        elif isinstance(record, Rejected):
            bad.add(record.location, record.reason, record.detail)
    if reader.problem is not None:
        logger.warning(
            "%s is %s (%s); rows that were read: %d",
            file.name, reader.problem.kind.replace("_", " "), reader.problem.detail, len(rows),
        )  # fmt: skip
    return rows, num_rows


def _check_kinds(files: Sequence[ReadFile]) -> None:
    """Raise if files do not have the same kind of examples."""
    for file in files[1:]:
        first = files[0]
        kinds = [(each.form.group_size, each.form.label_name) for each in (first, file)]
        if kinds[0] != kinds[1]:
            raise BadInputError(
                f"{first.name} has rows of {first.form.describe()} and {file.name} of "
                f"{file.form.describe()}, which do not train together; give one kind at a time"
            )


def _check_bad(bad: BadRows, num_rows: int, max_bad_share: float) -> None:
    """Warn of bad rows; raise if there are too many."""
    num_bad = bad.counts.total()
    if not num_bad:
        return
    found = f"{num_bad:,} of {num_rows:,} rows are bad"
    if (share := num_bad / num_rows) > max_bad_share:
        raise BadInputError(
            f"{found} ({share:.1%}; at most {max_bad_share:.1%} may be): {bad.describe()}. Correct "
            "them, or allow more with max_bad_share"
        )
    logger.warning("%s: %s", found, bad.describe())
