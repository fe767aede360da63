"""Checks of an existing output folder: the same dataset, another one, or foreign files."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from jaxgpt.config import from_dict, to_dict
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.dataset.listings import INPUTS_NAME, read_listing
from jaxgpt.corpus.readers.sources import InputFile, Inputs
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import ConfigError, MismatchError, UsageError
from jaxgpt.names.dotted_paths import find_differences
from jaxgpt.names.type_tags import TYPE_KEY, with_current_tags
from jaxgpt.storage.durable import hash_file

_MAX_DIFFERENCES = 3
_MAX_VALUE_CHARACTERS = 40


def recorded_settings(config: DatasetConfig) -> dict[str, Any]:
    """Return the settings as a manifest has them, without those of the executor."""
    return {name: value for name, value in to_dict(config).items() if name != "executor"}


def stored_settings(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of a dataset; those that its version did not have get their defaults."""
    settings = manifest.get("settings")
    try:
        return settings and recorded_settings(from_dict(settings, DatasetConfig))
    except ConfigError:
        # It has some that this version does not have; as they are, the differences are named.
        return with_current_tags(settings)


def check_finished(output: Path, config: DatasetConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the manifest of the dataset in `output` if building it again would change nothing.

    Text that was added or taken out since does not count.

    Raises:
        MismatchError: it is of other settings or other input (both are named), or not whole.
    """
    manifest = TokenDataset.open(output).manifest
    differences = settings_differences(stored_settings(manifest), recorded_settings(config))
    differences += _input_differences(_of_part(read_listing(output / INPUTS_NAME), 0), inputs)
    if differences:
        raise MismatchError(
            f"{output} already holds a dataset built from other input or settings: "
            f"{name_some(differences)}. Choose another --output, or remove it"
        )
    return manifest


def has_part(dataset: Path, inputs: Inputs, settings: Sequence[Any], wanted: Any) -> bool:
    """Return whether a part of a finished dataset was made from these files and settings.

    Args:
        settings: of all parts, in order.
    """
    entries: dict[int, list[dict[str, Any]]] = {}
    for entry in read_listing(dataset / INPUTS_NAME):
        entries.setdefault(entry.get("part", 0), []).append(entry)
    return any(
        those == wanted and not _input_differences(entries.get(part, ()), inputs)
        for part, those in enumerate(settings)
    )


def settings_differences(there: Any, here: Any) -> list[str]:
    """Return the settings that differ, with both values; long values are cut."""
    pairs = differing(there, here)
    return [f"{name} = {_short(one)} there, {_short(other)} here" for name, one, other in pairs]


def name_some(differences: Sequence[str]) -> str:
    """Return the first few of some sentences, and how many more there are."""
    more = len(differences) - _MAX_DIFFERENCES
    shown = "; ".join(differences[:_MAX_DIFFERENCES])
    return shown + (f"; and {more} more of {len(differences)} differences" if more > 0 else "")


def refuse_foreign_folder(output: Path, work: str) -> None:
    """Raise UsageError if `output` holds files and no build of ours has begun there."""
    present = sorted(path.name for path in output.iterdir() if path.name != ".lock")
    if present and work not in present:
        raise UsageError(
            f"{output} is not empty and not a dataset (it holds {', '.join(present[:3])}); "
            f"choose another --output"
        )


def differing(there: Any, here: Any) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, value there, value here) of settings that change a dataset."""
    return sorted(find_differences(there, here, into_lists=False), key=itemgetter(0))


def _short(value: Any) -> str:
    """Return a value for a message; a section becomes the name of its class."""
    if isinstance(value, dict) and TYPE_KEY in value:
        return f"{str(value[TYPE_KEY]).rpartition(':')[2]}(...)"
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[:_MAX_VALUE_CHARACTERS]}..."


def _of_part(entries: Iterable[dict[str, Any]], part: int) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry.get("part", 0) == part]


def _input_differences(listing: Iterable[dict[str, Any]], inputs: Inputs) -> list[str]:
    here = {file.name: file for file in inputs.files}
    there = {entry["name"]: entry for entry in listing}
    differences = [f"{name} is input here, not there" for name in here if name not in there]
    differences += [f"{name} is input there, not here" for name in there if name not in here]
    differences += [
        f"{name} has changed since"
        for name, entry in there.items()
        if name in here and not _is_same(here[name], entry)
    ]
    return differences


def _is_same(file: InputFile, entry: dict[str, Any]) -> bool:
    """Compare by size and time; if only the time differs, by content."""
    if file.size != entry["num_bytes"]:
        return False
    if file.stamp == entry["stamp"]:
        return True
    return "sha256" in entry and hash_file(file.path) == entry["sha256"]
