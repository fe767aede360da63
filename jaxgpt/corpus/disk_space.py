"""Disk space: a forecast of what a change of a dataset will take, and errors when it runs out.
Results of all stages are kept until the dataset is finished, so their sizes add up. Sizes per byte
of text were measured (docs/dataset.md). They depend on the text, and dropped text takes no room
later, so a forecast is right within a factor, not to the byte.
"""

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.readers.text_estimate import TextEstimate
from jaxgpt.data.manifest import token_dtype
from jaxgpt.errors import DISK_FULL, JaxgptError, UsageError
from jaxgpt.reports.units import format_bytes

logger = logging.getLogger(__name__)

# Share of its size that text takes, packed as stages store it.
_PACKED = 0.4
# Fewest tokens per byte of text, those of a vocabulary of 16,384 and more.
_TOKENS = 0.25
# A signature, band keys and what belongs to them, of one document.
_SIGNATURE_BYTES = 1400
# Names, hash and sizes of one document, in each stage that stores documents.
_NAMES_BYTES = 80
# Sets of shingles that are compared: eight bytes a word, for the share of text in candidate pairs.
_COMPARED = 0.2
# A fourth of the forecast is less than text of any kind has needed.
_SURELY_TOO_SMALL = 0.25
_NEAR = 1.2


def forecast_build(text: TextEstimate, config: DatasetConfig) -> dict[str, int]:
    """Return the bytes that each stage will write for a text, if nothing is dropped."""
    num_bytes, num_documents = text.num_bytes, text.num_documents
    packed = int(num_bytes * _PACKED) + num_documents * _NAMES_BYTES
    # A model that exists decides itself; what it has is not known before it is read.
    itemsize = token_dtype(config.tokenizer.vocab_size).itemsize
    tokens = int(num_bytes * _tokens_per_byte(config) * itemsize) + num_documents * _NAMES_BYTES
    needed = {"reading": packed}
    if config.filters.build():
        needed["filtering"] = packed
    if config.near_duplicates.enabled:
        compared = int(num_bytes * _COMPARED)
        needed["near duplicates"] = _SIGNATURE_BYTES * num_documents + compared
    if config.privacy.build() or config.decontamination.files:
        needed["editing"] = packed
    return needed | {"encoding": tokens, "shards": tokens}


def forecast_restoring(num_documents: int, num_bytes: int, config: DatasetConfig) -> dict[str, int]:
    """Return the bytes that a comparison with the documents of a dataset takes."""
    if not config.near_duplicates.enabled:
        return {}
    needed = int(num_bytes * _PACKED) + (_SIGNATURE_BYTES + _NAMES_BYTES) * num_documents
    return {"restoring stored documents": needed}


def check_disk_space(
    output: Path, work: Path, needed: Mapping[str, int], config: DatasetConfig
) -> None:
    """Warn if there may be too little room, and refuse if there surely is.

    Args:
        output: folder that needs the space.
        work: folder with results of an earlier run, which need not be written again.
        needed: bytes by stage.

    Raises:
        UsageError: there surely is too little; nothing has been written.
    """
    total = _missing(work, needed)
    free = shutil.disk_usage(output).free
    if free >= total * _NEAR:
        return
    taken = f"{format_bytes(total)} ({_list_stages(needed)})"
    said = f"{output} has {format_bytes(free)} free, and this may take {taken}"
    if free < total * _SURELY_TOO_SMALL and config.executor.when_disk_is_small == "refuse":
        raise UsageError(
            f"{said}; make room, choose a folder on another disk, or try anyway with "
            "--executor.when-disk-is-small warn"
        )
    logger.warning("%s", said)


@contextlib.contextmanager
def explaining_full_disk(
    output: Path, work: Path | None = None, needed: Mapping[str, int] | None = None
) -> Iterator[None]:
    """Turn the errors of a full disk into one that names the needed space and what to do.

    Args:
        output: folder that is written to.
        work: folder of the finished results.
        needed: forecast bytes by stage.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = format_bytes(shutil.disk_usage(output).free)
        more = ""
        if needed and work is not None:
            more = f", and the rest may take {format_bytes(_missing(work, needed))} of "
            more += f"{format_bytes(sum(needed.values()))} ({_list_stages(needed)})"
        raise JaxgptError(
            f"the disk is full: cannot write below {output}: {os.strerror(error.errno)}; {free} "
            f"are free{more}. Finished work is kept: make room and run the same command again"
        ) from error


def _tokens_per_byte(config: DatasetConfig) -> float:
    """Return an upper estimate of the tokens per byte of text."""
    if config.tokenizer.kind == "char":
        return 1.0
    # Measured: 2.4 bytes a token for 1,000 ids, 3.2 for 4,000, 4 and more from 16,384 on.
    bytes_per_token = 0.4 * math.log2(config.tokenizer.vocab_size) - 1.6
    return max(_TOKENS, 1 / max(bytes_per_token, 1.0))


def _missing(work: Path, needed: Mapping[str, int]) -> int:
    """Return the bytes of a forecast that have not been written yet."""
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    return max(sum(needed.values()) - there, 0)


def _list_stages(needed: Mapping[str, int]) -> str:
    return ", ".join(f"{stage} {format_bytes(size)}" for stage, size in needed.items())
