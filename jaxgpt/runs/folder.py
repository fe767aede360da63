"""Description of a run in its folder: config, lineage, tokenizer; and checks before it continues.

Checkpoints and their content are in state.py.
"""

import json
import time
from pathlib import Path
from typing import Any, Literal

from jaxgpt.checkpoints.integrity import MANIFEST, hash_files, list_files, write_manifest
from jaxgpt.checkpoints.verification import RUN_FILES
from jaxgpt.config import to_dict
from jaxgpt.distributed.hosts import broadcast_from_first, is_first_host
from jaxgpt.errors import MismatchError, NoCheckpointError, UsageError, is_machine_error
from jaxgpt.runs.config import CONFIG_VERSION, RunConfig
from jaxgpt.runs.run import check_run_files
from jaxgpt.storage.durable import write_json
from jaxgpt.tokenizer.tokenizer import Tokenizer

# Network file systems show a new folder to other hosts some time later.
_SHARED_SECONDS = 30.0

Resume = Literal["auto", "never", "must"]


def write_description(
    run_dir: Path, config: RunConfig, tokenizer: Tokenizer, lineage: dict[str, Any]
) -> None:
    """Write all files that eval, generate and a later resume need in addition to checkpoints.

    The manifest is deleted first and written last: a kill leaves no file next to another one's
    hash.
    """
    (run_dir / MANIFEST).unlink(missing_ok=True)
    tokenizer.save(run_dir / "tokenizer")
    write_json(run_dir / "config.json", {"version": CONFIG_VERSION, "config": to_dict(config)})
    write_json(run_dir / "env.json", lineage["environment"])
    write_json(run_dir / "lineage.json", lineage)
    write_manifest(run_dir, hash_files(run_dir, list_files(run_dir, RUN_FILES)))


def check_folder_is_shared(run_dir: Path) -> None:
    """Check that all of several hosts see the folder that host 0 has locked.

    Raises:
        UsageError: this host sees another one, or none.
    """
    lock = run_dir / ".lock"
    owner = broadcast_from_first(
        "the run folder", lock.read_text("utf-8") if is_first_host() else None
    )
    deadline = time.monotonic() + _SHARED_SECONDS
    while not (lock.is_file() and lock.read_text("utf-8") == owner):
        if time.monotonic() > deadline:
            raise UsageError(
                f"{run_dir} is not the folder that host 0 writes ({owner}); give a --run-dir on a "
                "file system that all hosts share"
            )
        time.sleep(0.5)


def read_lineage(run_dir: Path) -> dict[str, Any]:
    """Read the origin of the run.

    The other files of the description may be damaged: a run that continues writes them again.

    Raises:
        MismatchError: lineage.json is missing or damaged.
    """
    check_run_files(run_dir, ("lineage.json",))
    try:
        return json.loads((run_dir / "lineage.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        if is_machine_error(error):
            raise
        raise MismatchError(
            f"{run_dir}/lineage.json, which records the origin of the run, is missing or damaged "
            f"({error}); restore it, or choose another --run-dir"
        ) from None


def check_resume_mode(resume: Resume, latest: int | None, run_dir: Path) -> None:
    """Raise if the folder holds what `resume` forbids, or lacks what it demands.

    Raises:
        UsageError: `resume` is "never" and there is a checkpoint.
        NoCheckpointError: `resume` is "must" and there is none, or all that are there are damaged.
    """
    if resume == "never" and latest is not None:
        raise UsageError(
            f"{run_dir} holds a run at step {latest} and --resume is never; choose another "
            "--run-dir, or --resume auto to continue it"
        )
    damaged = sorted(path.name for path in (run_dir / "checkpoints").glob("damaged-*"))
    if latest is None and damaged:
        raise NoCheckpointError(
            f"{run_dir} holds no whole checkpoint, only {', '.join(damaged)} (the reason is in its "
            "damaged.json); choose another --run-dir, or delete this one to start over"
        )
    if resume == "must" and latest is None:
        raise NoCheckpointError(
            f"{run_dir} holds no checkpoint and --resume is must; --resume auto starts a run"
        )
