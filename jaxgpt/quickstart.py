"""`python -m jaxgpt.quickstart`: from this machine's own text to a trained model, in minutes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.command_line import parse_options, require_at_least, run_verb
from jaxgpt.runs.quickstart.quickstart import Quickstart, run_quickstart


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """Build a dataset, train, evaluate, generate and report; every command is shown.

    The text is the Python standard library of this machine; no download is needed.
    """

    input: tuple[str, ...] = ()
    """Files or folders of your own text, instead of the Python standard library."""
    run_dir: str = "runs/quickstart"
    """Folder of the run; running again continues it."""
    num_steps: int | None = None
    """Training steps; None: as configs/quickstart.py has it, fewer for a small text."""


def main(argv: Sequence[str]) -> None:
    """Parse and take the tour."""
    options = parse_options(QuickstartOptions, argv, prog="jaxgpt quickstart")
    require_at_least(options, num_steps=1)
    run_dir = Path(options.run_dir)
    run_quickstart(Quickstart(inputs=options.input, run_dir=run_dir, num_steps=options.num_steps))


if __name__ == "__main__":
    run_verb(main)
