"""`jaxgpt report RUN`: write report.html of a run, finished or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxgpt.command_line import parse_options, run_verb
from jaxgpt.errors import MismatchError, UsageError
from jaxgpt.names.nearby_paths import describe_nearby_runs
from jaxgpt.runs.remote import local_folder
from jaxgpt.runs.report.report import write_run_report


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html of a run from what its folder holds at this moment."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run folder, as written by jaxgpt train, or the URL of a run trained on this machine."""


def main(argv: Sequence[str]) -> None:
    """Parse, read, write."""
    options = parse_options(ReportOptions, argv, prog="jaxgpt report")
    print(write_run_report(_find_run(options.run)))


def _find_run(place: str) -> Path:
    """Return the folder of a run on this machine.

    Raises:
        UsageError: there is no such folder.
        MismatchError: it holds no run.
    """
    run_dir, url = local_folder(place)
    if not run_dir.is_dir():
        hint = f"; {url} has no copy on this machine" if url else describe_nearby_runs(run_dir)
        raise UsageError(f"no run folder at {run_dir}{hint}")
    if not (run_dir / "config.json").is_file():
        raise MismatchError(
            f"{run_dir} is not a run folder: it has no config.json{describe_nearby_runs(run_dir)}"
        )
    return run_dir


if __name__ == "__main__":
    run_verb(main)
