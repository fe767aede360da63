"""`jaxgpt supervise -- COMMAND`: run a command again whenever it ends unfinished."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro

from jaxgpt.command_line import find_option, parse_options, run_verb
from jaxgpt.errors import UsageError
from jaxgpt.runs.remote import local_folder
from jaxgpt.runs.supervisor import Patience, newest_step, supervise


@dataclass(frozen=True, kw_only=True)
class SuperviseOptions:
    """Run COMMAND, and again whenever it ends with exit code 75 or is killed, until it is done.

    The command stands after --, for example: jaxgpt supervise -- jaxgpt train --config c.py
    --run-dir runs/a. Its last exit code is the exit code.
    """

    run_dir: str | None = None
    """Run folder whose checkpoints show progress; default: the --run-dir of COMMAND."""
    patience: tyro.conf.OmitArgPrefixes[Patience] = field(default_factory=Patience)


def main(argv: Sequence[str]) -> None:
    """Parse, supervise, end as the command ended."""
    arguments = list(argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    own, command = arguments[:split], arguments[split + 1 :]
    options = parse_options(
        SuperviseOptions, own, prog="jaxgpt supervise", default=SuperviseOptions()
    )
    if not command:
        raise UsageError("no command; for example jaxgpt supervise -- jaxgpt train --config FILE")
    run_dir = options.run_dir or find_option(command, "--run-dir") or _default_run_dir(command)
    progress = partial(newest_step, local_folder(run_dir)[0])
    sys.exit(supervise(command, options.patience, progress))


def _default_run_dir(command: Sequence[str]) -> str:
    """Return the default run folder of `jaxgpt train`."""
    config = find_option(command, "--config")
    if config is None:
        raise UsageError("--run-dir is missing; without it the progress of COMMAND is unknown")
    return f"runs/{Path(config).stem}"


if __name__ == "__main__":
    run_verb(main)
