"""`python -m jaxgpt.verify --checkpoint RUN`: whether a run's files are what was written."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxgpt.checkpoints.remote.verification import verify_remote_run
from jaxgpt.checkpoints.verification import Verification, verify_run
from jaxgpt.command_line import parse_options, run_verb
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import NoCheckpointError, UsageError
from jaxgpt.reports.console import format_count
from jaxgpt.storage.remote_folder import is_url


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Hash everything again, and name each file that is not what was written."""

    checkpoint: str | None = None
    """Run folder, as written by jaxgpt.train, or its URL; checks all checkpoints, config and
    tokenizer."""
    data: str | None = None
    """Dataset folder; checks its shards, their indices and its tokenizer."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> None:
    """Parse, hash, tell."""
    options = parse_options(VerifyOptions, argv, prog="jaxgpt verify")
    if options.checkpoint is None and options.data is None:
        raise UsageError("give --checkpoint RUN, --data DIR, or both")
    values, lines = {}, []
    if options.data is not None:
        size = TokenDataset.open(options.data).verify()
        values |= {"data": options.data, "data_bytes": size}
        lines.append(f"{options.data}: whole; {size:,} bytes")
    found = Verification()
    if options.checkpoint is not None:
        run = options.checkpoint
        found = verify_remote_run(run) if is_url(run) else verify_run(Path(run))
        values |= {"checkpoint": options.checkpoint, "whole": not found.damage, **asdict(found)}
        lines += _describe(options.checkpoint, found)
    print(json.dumps(values) if options.json else "\n".join(lines))
    if found.damage:
        some = ", ".join(list(found.damage)[:3])
        more = f" and {len(found.damage) - 3} more" if len(found.damage) > 3 else ""
        raise NoCheckpointError(
            f"{options.checkpoint} is not whole: {some}{more}; training and --step latest go on "
            "from the newest whole step"
        )


def _describe(run: str, found: Verification) -> list[str]:
    lines = [f"{run}/{path} {problem}" for path, problem in sorted(found.damage.items())]
    whole = [str(step) for step, is_whole in found.steps.items() if is_whole]
    lines.append(f"{run}: whole steps: {', '.join(whole) or 'none'}")
    if found.set_aside:
        lines.append(f"{run}: not checked: {', '.join(found.set_aside)}")
    lines.append(f"{run}: {format_count(found.files, 'file')}, {format_count(found.bytes, 'byte')}")
    return lines


if __name__ == "__main__":
    run_verb(main)
