"""`account.json`: the account of a build, which later appends and takedowns update.

The manifest and the reports are made from it. Text that is added to a dataset, or taken out of it,
changes the account, and both are written again.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxgpt.corpus.documents.splits import Assignment
from jaxgpt.corpus.execution.machine_errors import explain, is_fault_of_machine
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.corpus.stats.measures import merge_measures
from jaxgpt.corpus.stats.near_duplicate_examples import merge_examples
from jaxgpt.errors import MismatchError
from jaxgpt.storage.durable import write_json

ACCOUNT_NAME = "account.json"
VERSION = 2


@dataclasses.dataclass(kw_only=True)
class Account:
    """Account of a dataset, or of a part of it that is being made.

    Attributes:
        tally: documents and bytes by reason and by source.
        step_counts: what filters and edits counted, by their stage.
        near_duplicate_counts: candidates, comparisons, ...; empty if none were looked for.
        near_duplicate_examples: families of a kept document and some removed for it, JSON.
        measures: result of `measure_documents`; empty if nothing was measured.
        num_files, num_file_bytes: input files and their size as stored.
        problems, skipped: damaged input files, and files that were no input, by kind.
        history: changes of the dataset after it was built, JSON, in order.
    """

    tally: DocumentCounts = dataclasses.field(default_factory=DocumentCounts)
    step_counts: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    near_duplicate_counts: Counter[str] = dataclasses.field(default_factory=Counter)
    near_duplicate_examples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    measures: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_files: int = 0
    num_file_bytes: int = 0
    problems: Counter[str] = dataclasses.field(default_factory=Counter)
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def count_steps(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add the counts of filters and edits."""
        for stage, those in counts.items():
            self.step_counts.setdefault(stage, Counter()).update(those)

    def count_near_duplicates(
        self, counts: Mapping[str, int], examples: Iterable[dict[str, Any]]
    ) -> None:
        """Add the result of the search for near duplicates."""
        largest = max(self.near_duplicate_counts["largest_cluster"], counts["largest_cluster"])
        self.near_duplicate_counts.update(counts)
        self.near_duplicate_counts["largest_cluster"] = largest
        self.near_duplicate_examples = merge_examples([*self.near_duplicate_examples, *examples])

    def count_measures(self, found: Mapping[str, Any]) -> None:
        """Add the result of `measure_documents`."""
        self.measures = merge_measures([self.measures, found] if self.measures else [found])

    def count_files(self, files: Iterable[Mapping[str, Any]]) -> None:
        """Add input files, as they are listed with the dataset."""
        for file in files:
            self.num_files += 1
            self.num_file_bytes += file["num_bytes"]
            if "problem" in file:
                self.problems[file["problem"]] += 1

    def add(self, other: "Account") -> None:
        """Add the account of a part that was made later."""
        self.tally.merge_added(other.tally)
        self.count_steps(other.step_counts)
        if other.near_duplicate_counts:
            self.count_near_duplicates(other.near_duplicate_counts, other.near_duplicate_examples)
        if other.measures:
            self.count_measures(other.measures)
        self.num_files += other.num_files
        self.num_file_bytes += other.num_file_bytes
        self.problems.update(other.problems)
        self.skipped.update(other.skipped)
        self.history += other.history

    def check(self) -> None:
        """Raise if the account does not close, which would be a defect of this program."""
        self.tally.check()
        self.tally.check_kept()

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        steps = {stage: _sorted(counts) for stage, counts in sorted(self.step_counts.items())}
        counters = {
            name: _sorted(value) for name, value in fields.items() if isinstance(value, Counter)
        }
        return fields | counters | {"tally": self.tally.to_json(), "step_counts": steps}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Account":
        """Return the account that `to_json` wrote."""
        fields = dict(data)
        for field in dataclasses.fields(cls):
            if field.default_factory is Counter:
                fields[field.name] = Counter(fields[field.name])
        fields["tally"] = DocumentCounts.from_json(fields["tally"])
        steps = fields["step_counts"].items()
        fields["step_counts"] = {stage: Counter(counts) for stage, counts in steps}
        return cls(**fields)


def write_account(folder: Path, account: Account, assignment: Assignment) -> None:
    """Write `account.json`: the account, and the division of documents between the splits."""
    write_json(
        folder / ACCOUNT_NAME,
        {"version": VERSION, "split": assignment.to_json(), "account": account.to_json()},
    )


def read_account(dataset: Path) -> tuple[Account, Assignment]:
    """Read the account that `write_account` wrote.

    Raises:
        MismatchError: there is none, or it is damaged, or of another version.
    """
    path = dataset / ACCOUNT_NAME
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] != VERSION:
            raise MismatchError(
                f"{path} has format version {data['version']!r}, and this jaxgpt reads version "
                f"{VERSION}: use the jaxgpt that wrote it, or build the dataset again"
            )
        return Account.from_json(data["account"]), Assignment.from_json(data["split"])
    except FileNotFoundError:
        raise MismatchError(
            f"{dataset} has no {ACCOUNT_NAME}: it was imported, or built by an older jaxgpt, and "
            f"cannot be changed; build it again from its text"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        if is_fault_of_machine(error):
            raise explain(error, str(path)) from error
        raise MismatchError(f"{path} is damaged ({error}); build the dataset again") from None


def _sorted(counts: Mapping[Any, int]) -> dict[Any, int]:
    return dict(sorted(counts.items()))
