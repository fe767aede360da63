"""What may already be in the output folder: the same dataset, another one, or something else."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from jaxgpt.config import to_dict
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.sources import InputFile, Inputs
from jaxgpt.durable import hash_file
from jaxgpt.errors import MismatchError, UsageError
from jaxgpt.shards import TokenDataset

INPUTS_NAME = "inputs.jsonl.zst"
_MAX_DIFFERENCES = 5


def recorded_settings(config: DatasetConfig) -> dict[str, Any]:
    """The settings as a manifest has them: who did the work does not count."""
    return {name: value for name, value in to_dict(config).items() if name != "executor"}


def check_finished(output: Path, config: DatasetConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the manifest of the dataset in `output` if building it again would change nothing.

    Raises:
        MismatchError: it is of other settings or other input (both are named), or not whole.
    """
    manifest = TokenDataset.open(output).manifest
    settings = recorded_settings(config)
    differences = [
        f"{name} = {there!r} there, {here!r} here"
        for name, there, here in _differences(manifest.get("settings"), settings)
    ]
    differences += _input_differences(output / INPUTS_NAME, inputs)
    if differences:
        shown = "; ".join(differences[:_MAX_DIFFERENCES])
        more = len(differences) - _MAX_DIFFERENCES
        raise MismatchError(
            f"{output} is a finished dataset of something else: {shown}"
            f"{f'; and {more} more' if more > 0 else ''}. Choose another --output, or remove it"
        )
    return manifest


def refuse_foreign_folder(output: Path, work: str) -> None:
    """Raise UsageError if `output` holds files and no build of ours has begun there."""
    present = sorted(path.name for path in output.iterdir() if path.name != ".lock")
    if present and work not in present:
        raise UsageError(
            f"{output} is not empty and not a dataset (it holds {', '.join(present[:3])}); "
            f"choose another --output"
        )


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value there, value here) of settings that decide what a dataset holds."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            dotted = f"{name}.{key}" if name else key
            yield from _differences(there.get(key), here.get(key), dotted)
    elif there != here:
        yield name, there, here


def _input_differences(listing: Path, inputs: Inputs) -> list[str]:
    here = {file.name: file for file in inputs.files}
    there = {entry["name"]: entry for entry in read_listing(listing)}
    differences = [f"{name} is input here, not there" for name in here if name not in there]
    differences += [f"{name} is input there, not here" for name in there if name not in here]
    differences += [
        f"{name} has changed since"
        for name, entry in there.items()
        if name in here and not _is_same(here[name], entry)
    ]
    return differences


def _is_same(file: InputFile, entry: dict[str, Any]) -> bool:
    """By size and time, or where only the time differs by content."""
    if file.size != entry["num_bytes"]:
        return False
    if file.stamp == entry["stamp"]:
        return True
    return "sha256" in entry and hash_file(file.path) == entry["sha256"]


def read_listing(path: Path) -> Iterator[dict[str, Any]]:
    """The input files of a finished dataset.

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
        raise MismatchError(f"{path}: {error}; build the dataset again") from error
