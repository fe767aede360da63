"""Configs: a Python file -> frozen, type-checked dataclasses -> JSON and back.

A section of a config is a class marked `@configclass`, defined next to the code that it configures.
A choice between variants is a *value* (`position=Rotary(max_wavelength=1e4)`), never a string: the
field is annotated with the variants' base class, and a config file imports the one it wants.
Overrides from the command line are in `command_line.py`. A class that a command takes may have the
class variable `such_as`: the files that define one, for an error.
"""

import dataclasses
import functools
import json
import runpy
import traceback
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

import pydantic
import pydantic.dataclasses

from jaxgpt.errors import ConfigError, JaxgptError, UsageError, did_you_mean, one_line
from jaxgpt.names.nearby_paths import describe_nearby_configs
from jaxgpt.names.type_tags import TYPE_KEY, find_class, type_tag, with_current_tags

T = TypeVar("T")
ARCHITECTURE = None
EXECUTION = "execution"
TRAINING = "training"
_MARKS = (EXECUTION, TRAINING)
# The same function of the same parameters but for rounding: speed and memory.
Execution = Annotated[T, EXECUTION]
# How parameters begin, or what is minimised; without effect on a model that is not trained.
Training = Annotated[T, TRAINING]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass whose fields are type-checked at construction.

    Raises:
        ConfigError: on construction, for an unknown field, a wrong type, a value outside a
            `Literal`, or a `ValueError` from the class's own `__post_init__`.
    """
    checked = pydantic.dataclasses.dataclass(
        cls,
        frozen=True,
        kw_only=True,
        config=pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False),
    )
    construct = checked.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ConfigError(_describe(error, cls)) from None

    __init__.__wrapped__ = construct  # type: ignore[attr-defined]
    checked.__init__ = __init__  # type: ignore[method-assign]
    return checked  # type: ignore[return-value]


def load_config(path: str | Path, expected: type[T]) -> T:
    """Run the Python (or read the JSON) file at `path` and return the `config` it defines.

    Running a config file runs its author's Python; a checkpoint carries JSON instead.

    Raises:
        UsageError: the file does not exist.
        ConfigError: it raises, defines no `config`, or `config` is not an `expected`.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no config file at {path}{describe_nearby_configs(path)}")
    if path.suffix == ".json":
        # A run folder's config.json wraps the config: {"version": ..., "config": ...}.
        data = _parse(path.read_text("utf-8"))
        wrapped = isinstance(data, dict) and TYPE_KEY not in data and "config" in data
        return from_dict(data["config"] if wrapped else data, expected)
    try:
        namespace = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        if isinstance(error, JaxgptError) and not isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{_place(error, path)}: {_describe_error(error)}") from error
    config = namespace.get("config")
    if not isinstance(config, expected):
        found = "no `config`" if config is None else f"a `config` of type {type(config).__name__}"
        wanted = getattr(expected, "such_as", f"`config = {expected.__name__}(...)`")
        raise ConfigError(f"{path} defines {found}; expected {wanted}")
    return config


def to_json(config: Any, indent: int | None = 2) -> str:
    """Return the JSON of a config; every section carries its class as `type: PACKAGE:Class`."""
    return json.dumps(to_dict(config), indent=indent)


def to_dict(value: Any) -> Any:
    """Return plain dicts, lists and scalars that `from_dict` turns back into an equal value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        fields = {
            field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {TYPE_KEY: type_tag(cls), **fields}
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if isinstance(value, dict):
        return {key: to_dict(item) for key, item in value.items()}
    return value


def from_json(text: str, expected: type[T], modules: Collection[str] = ()) -> T:
    """Parse JSON written by `to_json`; see `from_dict`."""
    return from_dict(_parse(text), expected, modules)


def from_dict(data: Any, expected: type[T], modules: Collection[str] = ()) -> T:
    """Rebuild a config from `to_dict`'s output.

    Args:
        data: nested dicts whose `type` names a class of `jaxgpt` or of one of `modules`.
        expected: the class, or base class, that the result must be an instance of.
        modules: modules besides `jaxgpt` whose classes may be built.

    Raises:
        ConfigError: a class outside those modules, one that is no subclass of the field's
            class, or fields that the class does not have (both sides are listed).
    """
    if not isinstance(data, dict) or TYPE_KEY not in data:
        raise ConfigError(
            f"expected an object with a {TYPE_KEY!r} for {expected.__name__}, found {_short(data)}"
        )
    cls = _resolve(data[TYPE_KEY], expected, modules)
    hints = typing.get_type_hints(cls)
    values = {key: value for key, value in data.items() if key != TYPE_KEY}
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - known):
        absent = sorted(known - values.keys())
        raise ConfigError(
            f"{cls.__name__} has no field {', '.join(unknown)}; fields it has and the JSON lacks: "
            f"{', '.join(absent) or 'none'}. The JSON comes from another version of jaxgpt"
        )
    return cls(**{key: _rebuild(value, hints[key], modules) for key, value in values.items()})


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the config is not JSON: {error}") from None


def _rebuild(value: Any, annotation: Any, modules: Collection[str]) -> Any:
    """Turn one JSON value back into the Python value that a field annotated so accepts."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _rebuild(value, arguments[0], modules)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        options = [option for option in arguments if option is not type(None)]
        if len(options) == 1:
            return _rebuild(value, options[0], modules)
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_rebuild(item, arguments[0], modules) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _rebuild(item, arguments[1], modules) for key, item in value.items()}
    if dataclasses.is_dataclass(annotation):
        return from_dict(value, annotation, modules)  # type: ignore[arg-type]
    return value


def _resolve(name: Any, expected: type[T], modules: Collection[str]) -> type[T]:
    cls = find_class(name, modules)
    if cls is None:
        raise ConfigError(f"the config names {name!r}, which does not exist in this version")
    if not (isinstance(cls, type) and issubclass(cls, expected) and dataclasses.is_dataclass(cls)):
        if wanted := getattr(expected, "such_as", None):
            raise ConfigError(f"the config is of type {name}; expected {wanted}")
        raise ConfigError(f"the config names {name!r} where a {expected.__name__} is expected")
    return cls


def _describe(error: pydantic.ValidationError, cls: type) -> str:
    """Describe the first problem of a pydantic error in one line, in terms of the user's config."""
    problem = error.errors()[0]
    place = ".".join([cls.__name__, *(str(part) for part in problem["loc"])])
    kind, message = problem["type"], problem["msg"]
    if kind == "unexpected_keyword_argument":
        names = list(getattr(cls, "__annotations__", {}))
        for base in cls.__mro__[1:]:
            names += list(getattr(base, "__annotations__", {}))
        name = str(problem["loc"][-1])
        return f"{cls.__name__} has no field {name!r}{did_you_mean(name, names)}"
    if kind == "missing_keyword_only_argument":
        return f"{place} must be given"
    if kind == "value_error":
        return f"{cls.__name__}: {message.removeprefix('Value error, ')}"
    if kind == "finite_number":
        return f"{place} = {problem['input']!r}; allowed: finite numbers"
    if kind == "unexpected_positional_argument":
        return f"{cls.__name__} takes its fields by name only"
    return f"{place} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _place(error: BaseException, path: Path) -> str:
    """Return `file:line` of the deepest frame of `error` that lies in the config file itself."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _short(data: Any) -> str:
    return f"an object with {', '.join(data)}" if isinstance(data, dict) else repr(data)[:80]


def _describe_error(error: BaseException) -> str:
    text = one_line(error)
    return text if isinstance(error, JaxgptError) else f"{type(error).__name__}: {text}"


def replace(config: T, **changes: Any) -> T:
    """Return a copy of a section with some fields changed, checked as a whole."""
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


@functools.cache
def roles(cls: type) -> dict[str, str | None]:
    """Return the role of each field: `EXECUTION`, `TRAINING`, or None for architecture."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: next((mark for mark in get_args(hints[field.name]) if mark in _MARKS), None)
        for field in dataclasses.fields(cls)
    }


def select_fields(section: Any, wanted: str | None) -> Any:
    """Return the fields of one role from what `to_dict` gave; sections keep their class.

    All of a marked section has the role of its mark. A section whose class this version does not
    have is architecture.
    """
    if not isinstance(section, Mapping):
        return section
    cls = find_class(section[TYPE_KEY]) if TYPE_KEY in section else None
    known = roles(cls) if dataclasses.is_dataclass(cls) else {}
    selected = {}
    for name, value in section.items():
        role = known.get(name)
        if role is None and isinstance(value, Mapping):
            selected[name] = select_fields(value, wanted)
        elif name == TYPE_KEY or role == wanted:
            selected[name] = value
    return selected


def with_defaults(*sections: Any) -> list[Any]:
    """Return what `to_dict` would give for sections as this version reads them.

    Fields that an older version did not have get their defaults. If this version cannot read one of
    them, all are returned as they are but for the names of their classes.
    """
    try:
        return [to_dict(from_dict(section, object)) for section in sections]
    except ConfigError:
        return with_current_tags(sections)
