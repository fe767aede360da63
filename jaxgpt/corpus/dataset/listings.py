"""Listings of a finished dataset: its input files, its removed documents."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from jaxgpt.corpus.execution.machine_errors import explain, is_fault_of_machine
from jaxgpt.errors import MismatchError

INPUTS_NAME = "inputs.jsonl.zst"


def read_listing(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a `.jsonl.zst` listing, one a line.

    Raises:
        MismatchError: the listing is missing or damaged.
    """
    try:
        with (
            open(path, "rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as stream,
        ):
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                yield json.loads(line)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        if is_fault_of_machine(error):
            raise explain(error, str(path)) from error
        raise MismatchError(f"{path}: {error}; build the dataset again") from error
