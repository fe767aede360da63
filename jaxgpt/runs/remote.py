"""Runs that live at a URL: where they are on this machine's disk, and what is copied when."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.checkpoints.remote.mirror import RemoteCopy
from jaxgpt.distributed.hosts import is_first_host
from jaxgpt.errors import UsageError
from jaxgpt.storage.remote_folder import is_url

_ROOT_VARIABLE = "JAXGPT_WORK_DIR"


def local_folder(place: str) -> tuple[Path, str | None]:
    """Return where a run is on this machine's disk, and its URL if it has one.

    The folder of gs://bucket/a is runs/gs/bucket/a; JAXGPT_WORK_DIR is another root than runs.

    Raises:
        UsageError: a URL goes up with `..`, or names no folder.
    """
    if not is_url(place):
        return Path(place), None
    scheme, _, rest = place.partition("://")
    parts = [part for part in rest.split("/") if part]
    if not parts or {".", ".."} & set(parts):
        raise UsageError(f"{place} names no folder; for example gs://bucket/runs/base")
    return Path(os.environ.get(_ROOT_VARIABLE, "runs"), scheme, *parts), place


@contextmanager
def copied(
    run_dir: Path, url: str | None, config: CheckpointConfig
) -> Iterator[Callable[[], str | None]]:
    """Keep a run folder and a URL equal within the context; do nothing without a URL.

    Yields a function that copies the newest step; see `RemoteCopy.push`. Only the first host
    copies.

    Raises:
        see `RemoteCopy`; UnfinishedError: at the end, the URL lacks something.
    """
    if url is None or not is_first_host():
        yield lambda: None
    else:
        with RemoteCopy(run_dir, url, config) as copy:
            yield copy.push
