"""The text that measures of the corpus run on, and how fast this machine copies it."""

import os
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.iterate import read_documents
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import UsageError

_COPIED_BYTES = 1 << 26


def inputs_or_default(inputs: Sequence[str]) -> tuple[str, ...]:
    """Return `inputs`, or the Python standard library where there are none."""
    return tuple(inputs) or (sysconfig.get_paths()["stdlib"],)


def read_texts(inputs: Sequence[str], folder: Path, max_bytes: int) -> list[Document]:
    """Return the first documents of `inputs`, of about `max_bytes`, without those in `folder`.

    Raises:
        UsageError: there is no text.
    """
    config = SourcesConfig(exclude=("*/site-packages/*",))
    found = find_inputs(inputs_or_default(inputs), folder, config.exclude)
    documents: list[Document] = []
    num_bytes = 0
    for document in read_documents(found, config):
        documents.append(document)
        num_bytes += len(document.text.encode())
        if num_bytes >= max_bytes:
            break
    if not num_bytes:
        raise UsageError("--input has no text to measure with")
    return documents


def memory_copy_rate() -> float:
    """Return the bytes per second that one core copies from memory to memory."""
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    start = time.perf_counter()
    np.copyto(target, source)
    return _COPIED_BYTES / (time.perf_counter() - start)


def file_copy_rate(folder: Path, num_bytes: int) -> float:
    """Return the bytes per second that one core writes to a file of this size and syncs."""
    data = np.random.default_rng(0).integers(0, 256, min(num_bytes, _COPIED_BYTES), np.uint8)
    path = folder / "copy.bin"
    start = time.perf_counter()
    with path.open("wb") as file:
        file.write(data.tobytes())
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return len(data) / seconds
