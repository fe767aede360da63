"""Names of classes in JSON, as `type`: `jaxgpt.model:Rotary` is the class's package and its name.

The file in which a class lies is not written, so that files can be moved. Older versions wrote it
(`jaxgpt.model.positions:Rotary`): such names are read, and `with_current_tags` makes them equal to
those of this version before anything is compared.
"""

import importlib
import sys
from collections.abc import Collection
from typing import Any

from jaxgpt.errors import ConfigError
from jaxgpt.names.public_names import public_names

TYPE_KEY = "type"
_ROOT = "jaxgpt"
# Classes that have another name now, or are in another package: an entry for each, never removed.
_RENAMED = {
    "jaxgpt.model:Linear": "jaxgpt.model:LinearScaling",
    "jaxgpt.model:Numbered": "jaxgpt.model:UnrolledPython",
    "jaxgpt.model:RowByRow": "jaxgpt.model:CpuBlockwise",
    "jaxgpt.training:Linear": "jaxgpt.training:LinearDecay",
    "jaxgpt.training:LossHead": "jaxgpt.training:LinearCrossEntropy",
    "jaxgpt.parallel:HostsConfig": "jaxgpt.distributed:HostsConfig",
    "jaxgpt.parallel:RuntimeConfig": "jaxgpt.runtime:RuntimeConfig",
}


def type_tag(cls: type) -> str:
    """Return the name of a class in JSON.

    It is `jaxgpt:Class` or `jaxgpt.PACKAGE:Class` where that package exports the class; for others,
    such as those of a user's own module, it is `module:Class`.
    """
    name, module = cls.__qualname__, cls.__module__
    if _is_ours(module):
        for package in (_ROOT, ".".join(module.split(".")[:2])):
            if _exports(package, name) and getattr(sys.modules[package], name) is cls:
                return f"{package}:{name}"
    return f"{module}:{name}"


def find_class(tag: Any, modules: Collection[str] = ()) -> type | None:
    """Return the class that a `type` of the JSON names; None if this version has none.

    A file of the package that is not there any more stands for the package it was in.

    Raises:
        ConfigError: it lies neither in the package nor in one of `modules`.
    """
    module, _, name = str(tag).partition(":")
    if module in modules:
        return _get(module, name)
    if not _is_ours(module):
        raise ConfigError(
            f"the config uses the class {tag!r}; only classes of the package jaxgpt are built "
            "from JSON, so a variant of your own must lie in a file of the package"
        )
    while module:
        if renamed := _RENAMED.get(f"{module}:{name}"):
            return find_class(renamed)
        if (found := _get(module, name)) is not None:
            return found
        module = module.rpartition(".")[0]
    return None


def with_current_tags(value: Any) -> Any:
    """Return JSON values with each `type` as this version writes it, whichever version wrote them.

    A class that this version does not have, or that is a user's own, keeps its name. Keys may be
    dotted names of fields (`split.type`).
    """
    if isinstance(value, dict):
        return {
            key: _current(item)
            if isinstance(item, str) and key.rpartition(".")[2] == TYPE_KEY
            else with_current_tags(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [with_current_tags(item) for item in value]
    return value


def _current(tag: str) -> str:
    cls = find_class(tag) if _is_ours(tag.partition(":")[0]) else None
    return type_tag(cls) if isinstance(cls, type) else tag


def _is_ours(module: str) -> bool:
    return module == _ROOT or module.startswith(f"{_ROOT}.")


def _exports(package: str, name: str) -> bool:
    return hasattr(sys.modules.get(package), "__path__") and name in public_names(package)


def _get(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            return None
        raise
