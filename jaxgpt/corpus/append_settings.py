"""Settings of a dataset and of parts that are added to it: shared ones, and differences."""

from pathlib import Path
from typing import Any

from jaxgpt.config import from_dict, with_defaults
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.existing import (
    differing,
    name_some,
    recorded_settings,
    settings_differences,
    stored_settings,
)
from jaxgpt.corpus.stats.account import Account
from jaxgpt.data.shards import TokenDataset
from jaxgpt.errors import MismatchError
from jaxgpt.names.type_tags import with_current_tags

APPEND_OPERATION = "append"
# These decide where a document goes and what its ids are; they are the same for all parts.
_FIXED = ("seed", "split", "tokenizer")


def recorded_config(dataset: Path) -> DatasetConfig:
    """Return the settings that a dataset was built with; those of the executor are the defaults.

    Raises:
        UsageError: there is no dataset.
        MismatchError: it was not built from text, or not by this version.
    """
    settings = TokenDataset.open(dataset).manifest.get("settings")
    if settings is None:
        raise MismatchError(
            f"{dataset} has no settings in its manifest: it was imported, and nothing can be "
            "appended to it; build a dataset from its text"
        )
    return from_dict(settings, DatasetConfig)


def settings_of_parts(account: Account) -> list[dict[str, Any]]:
    """Return the settings of each part that differ from the dataset's; the first part comes
    first."""
    added = [
        entry["settings"] for entry in account.history if entry["operation"] == APPEND_OPERATION
    ]
    return [{}, *map(_as_of_this_version, added)]


def _as_of_this_version(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a part with the names of this version, and its defaults."""
    current = with_current_tags(settings)
    return {name: with_defaults(value)[0] for name, value in current.items()}


def changed_settings(stored: TokenDataset, config: DatasetConfig) -> dict[str, Any]:
    """Return the settings that differ from the dataset's: dotted name -> value."""
    there, here = stored_settings(stored.manifest), recorded_settings(config)
    return {name: value for name, _, value in differing(there, here)}


def check_settings(stored: TokenDataset, config: DatasetConfig) -> None:
    """Raise MismatchError if a setting is changed that all parts must share."""
    there, here = stored_settings(stored.manifest) or {}, recorded_settings(config)
    differences = [
        sentence
        for name in _FIXED
        for sentence in settings_differences({name: there.get(name)}, {name: here[name]})
    ]
    if differences:
        raise MismatchError(
            f"text that is added to {stored.directory} must have these settings of the dataset: "
            f"{name_some(differences)}"
        )
