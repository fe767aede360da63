"""Room on the disk: how much a change of a dataset will take, and what happens when it runs out.

Results of all stages lie beside each other until the dataset is finished, so their sizes add up.
What they are, for a byte of text, was measured (docs/dataset.md): it depends on the text, and what
is dropped takes no room later, so a forecast is right within a factor, not to the byte.
"""

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.sources import InputFile
from jaxgpt.dataset_manifest import token_dtype
from jaxgpt.errors import JaxgptError, UsageError
from jaxgpt.report_page import format_bytes

logger = logging.getLogger(__name__)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Text packed as stages store it, and its tokens: shares of its size.
_PACKED = 0.4
_TOKENS = 0.25
# A signature, band keys and what belongs to them, of one document.
_SIGNATURE_BYTES = 1400
# Of a record in a file of many, as web pages are.
_DOCUMENT_BYTES = 2700
# A fourth of the forecast is less than text of any kind has needed.
_SURELY_TOO_SMALL = 0.25
_NEAR = 1.2


def forecast_build(files: Sequence[InputFile], config: DatasetConfig) -> dict[str, int]:
    """Bytes that each stage will write for these files, if nothing is dropped."""
    num_bytes = sum(file.estimated_text_bytes for file in files)
    packed = int(num_bytes * _PACKED)
    # A model that exists decides itself; what it has is not known before it is read.
    itemsize = token_dtype(config.tokenizer.vocab_size).itemsize
    tokens = int(num_bytes * _TOKENS * itemsize)
    needed = {"reading": packed}
    if config.filters.build():
        needed["filtering"] = packed
    if config.near_duplicates.enabled:
        needed["near duplicates"] = _SIGNATURE_BYTES * sum(map(_num_documents, files))
    if config.privacy.build() or config.decontamination.files:
        needed["editing"] = packed
    return needed | {"encoding": tokens, "shards": tokens}


def forecast_restoring(num_documents: int, num_bytes: int, config: DatasetConfig) -> dict[str, int]:
    """Bytes that it takes to compare with the documents of a dataset."""
    if not config.near_duplicates.enabled:
        return {}
    needed = int(num_bytes * _PACKED) + _SIGNATURE_BYTES * num_documents
    return {"restoring stored documents": needed}


def check_disk_space(
    output: Path, work: Path, needed: Mapping[str, int], config: DatasetConfig
) -> None:
    """Warn if there may be too little room, and refuse if there surely is.

    Args:
        output: where it is needed.
        work: what lies here is from an earlier run of the same, and need not be written again.
        needed: bytes by stage.

    Raises:
        UsageError: there surely is too little; nothing has been written.
    """
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    total = max(sum(needed.values()) - there, 0)
    free = shutil.disk_usage(output).free
    if free >= total * _NEAR:
        return
    stages = ", ".join(f"{stage} {format_bytes(size)}" for stage, size in needed.items())
    taken = format_bytes(total)
    said = f"{output} has {format_bytes(free)} free, and this may take {taken} ({stages})"
    if free < total * _SURELY_TOO_SMALL and config.executor.when_disk_is_small == "refuse":
        raise UsageError(
            f"{said}; make room, choose a folder on another disk, or try all the same with "
            f"--executor.when-disk-is-small warn"
        )
    logger.warning("%s", said)


@contextlib.contextmanager
def explaining_full_disk(output: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise JaxgptError(
            f"cannot write below {output}: {error.strerror or error}; what was finished is "
            f"kept: make room and run the same command again"
        ) from error


def _num_documents(file: InputFile) -> int:
    if file.kind == "text":
        return 1
    return file.estimated_text_bytes // _DOCUMENT_BYTES + 1
