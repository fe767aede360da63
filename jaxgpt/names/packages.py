"""Packages that only some work needs: importing one, and the advice where that fails."""

import importlib
from typing import Any

from jaxgpt.errors import ConfigError


def install_advice(extra: str = "") -> str:
    """Return the command that installs the packages of an extra, or those of every install."""
    target = f"'.[{extra}]'" if extra else "."
    return f"run pip install -e {target} in the clone of jaxgpt"


def import_package(name: str, purpose: str, advice: str) -> Any:
    """Import a module of a package that only `purpose` needs.

    Raises:
        ConfigError: the package is missing or broken; `advice` says what to do about it.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # A broken package raises anything.
        package = name.partition(".")[0]
        raise ConfigError(
            f"{purpose} needs the package {package}, which cannot be imported "
            f"({describe(error)}); {advice}"
        ) from error


def describe(error: Exception) -> str:
    """Return the type and the text of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
