"""Variants chosen by name on the command line: `--optimizer Muon`, `--model.remat FullRemat`.

A field that is annotated with the base class of variants takes the name of one of them; the fields
of that variant are options then. Variants are the config classes in the package of the base class
that derive from it and that nothing derives from, and those that a config file has imported.
"""

import dataclasses
import functools
import importlib
import importlib.util
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro

from jaxgpt.errors import UsageError, did_you_mean

T = TypeVar("T")
_CLASS = re.compile(r"^@configclass\nclass (\w+)\(([\w., ]+)\):", re.MULTILINE)


@dataclass(frozen=True)
class VariantField:
    """A field that holds one section, or none.

    Attributes:
        path: names of the attributes that lead to it.
        base: class that the section is, or derives from.
        optional: whether None is allowed.
        value: the section that it holds.
    """

    path: tuple[str, ...]
    base: type
    optional: bool
    value: Any

    def names(self) -> list[str]:
        """Return the names of all variants; the one that it holds may have others that derive from
        it."""
        return sorted({*find_variants(self.base), self.name} - {"None"}) + ["None"] * self.optional

    @property
    def name(self) -> str:
        """The variant that it holds."""
        return "None" if self.value is None else type(self.value).__name__

    def make(self, name: str) -> Any:
        """Return the variant of that name; see `make_variant`."""
        if name == "None":
            return None
        return make_variant(load_variant(self.base, name), self.value)


def choose_variants(options: T, argv: Sequence[str]) -> tuple[T, list[str]]:
    """Put the variants that `argv` names into `options`, and take them out of `argv`.

    The result is not checked: further options may be needed for values that fit together.

    Args:
        options: an instance of the dataclass that `argv` is parsed into; its values are defaults.
        argv: command line.

    Returns:
        The options with the variants, and the arguments that are left.

    Raises:
        UsageError: a name that no variant has.
    """
    rest = list(argv)
    while True:
        fields = _sections(options)
        given = [name for name in map(_option_name, rest) if name in fields]
        if not given:
            return options, rest
        # An outer variant first: it brings the fields of inner ones.
        name = min(given, key=lambda option: len(fields[option].path))
        names = fields[name].names()
        chosen, rest = _take(rest, name, names)
        if chosen not in names:
            raise UsageError(
                f"--{name} {chosen} names no variant{did_you_mean(chosen, names)} (there are "
                f"{', '.join(names)})"
            )
        options = _with(options, fields[name].path, fields[name].make(chosen))


def describe_variants(options: Any) -> list[str]:
    """Return lines for the end of a help text; empty if there is nothing to choose."""
    fields = _sections(options)
    if not fields:
        return []
    lines = ["variants, chosen by name; the fields of the chosen one become options:"]
    for name, field in fields.items():
        others = [other for other in field.names() if other != field.name]
        lines.append(f"  --{name} NAME (default: {field.name}; others: {', '.join(others)})")
    return lines


def describe_owners(options: Any, option: str) -> str:
    """Return `"; it belongs to --optimizer Muon"` for a field of a variant that is not chosen."""
    for name, field in reversed(_sections(options).items()):
        if not option.startswith(f"--{name}."):
            continue
        attribute = option.removeprefix(f"--{name}.").partition(".")[0].replace("-", "_")
        owners = [
            variant
            for variant in sorted(find_variants(field.base))
            if attribute in _field_names(load_variant(field.base, variant))
        ]
        if owners:
            return f"; it belongs to --{name} {' or '.join(owners)}"
    return ""


def variant_options(options: Any) -> list[str]:
    """Return the options that choose variants, `--optimizer` and others."""
    return [f"--{name}" for name in _sections(options)]


def rebuild(value: Any) -> Any:
    """Construct nested sections again from their fields, which checks all of them.

    Raises:
        ConfigError: a section refuses its values.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return type(value)(**{name: rebuild(getattr(value, name)) for name in _field_names(value)})


def make_variant(cls: type, before: Any) -> Any:
    """Return an instance of `cls` with its default values, not checked yet.

    Fields that `cls` has from a class that the variant before derives from, too, keep their values:
    another schedule has the same number of steps. A field without a default is left for an option.
    """
    common = next((each for each in type(before).__mro__ if issubclass(cls, each)), object)
    kept = _field_names(common) if dataclasses.is_dataclass(common) else []
    instance = object.__new__(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in kept:
            value = getattr(before, field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = tyro.MISSING
        object.__setattr__(instance, field.name, value)
    return instance


def find_variants(base: type) -> dict[str, str]:
    """Return the modules of the variants of a class by name; of itself, if nothing derives from it.

    Files of its package are read as text: most variants need not be imported.
    """
    classes = {name: (parents, module) for name, parents, module in _classes_beside(base)}
    for cls in _subclasses(base):
        parents = frozenset(each.__name__ for each in cls.__bases__)
        classes[cls.__name__] = (parents, cls.__module__)
    found, size = {base.__name__}, 0
    while len(found) > size:
        size = len(found)
        found |= {name for name, (parents, _) in classes.items() if parents & found}
    above = {parent for name in found - {base.__name__} for parent in classes[name][0]}
    return {name: classes[name][1] for name in found - above - {base.__name__}} or {
        base.__name__: base.__module__
    }


def load_variant(base: type, name: str) -> type:
    """Import the variant of that name."""
    loaded = {cls.__name__: cls for cls in (base, *_subclasses(base))}
    if name in loaded:
        return loaded[name]
    return getattr(importlib.import_module(find_variants(base)[name]), name)


def _sections(options: Any) -> dict[str, VariantField]:
    """Return all fields of nested sections that have a choice, by option."""
    found: dict[str, VariantField] = {}
    own = {field.name.replace("_", "-") for field in dataclasses.fields(options)}

    def visit(section: Any, prefix: str, path: tuple[str, ...]) -> None:
        hints = typing.get_type_hints(type(section), include_extras=True)
        for field in dataclasses.fields(section):
            name, kinds = _name_and_kinds(field.name, hints[field.name])
            option = ".".join(part for part in (prefix, name) if part)
            value, here = getattr(section, field.name), (*path, field.name)
            bases = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
            # A verb's own option, such as --data, hides a section of that name.
            if len(bases) == 1 and option and (option not in own or not path):
                base = typing.cast(type, bases[0])
                variant = VariantField(here, base, type(None) in kinds, value)
                if variant.optional or len(find_variants(base)) > 1:
                    found[option] = variant
            if dataclasses.is_dataclass(value):
                visit(value, option, here)

    visit(options, "", ())
    return found


def _name_and_kinds(name: str, annotation: Any) -> tuple[str, tuple[Any, ...]]:
    """Return a field's option, and the classes that its annotation allows."""
    name = name.replace("_", "-")
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *marks = typing.get_args(annotation)
        for mark in marks:
            name = name if getattr(mark, "name", None) is None else mark.name
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return name, typing.get_args(annotation) if is_union else (annotation,)


def _with(section: Any, path: Sequence[str], value: Any) -> Any:
    """Return a copy of nested sections with one field changed, not checked."""
    copy = object.__new__(type(section))
    for name in _field_names(section):
        object.__setattr__(copy, name, getattr(section, name))
    first, *rest = path
    object.__setattr__(copy, first, _with(getattr(section, first), rest, value) if rest else value)
    return copy


def _take(argv: Sequence[str], option: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the last value of an option, and the arguments without it."""
    rest, value, position = [], "", 0
    while position < len(argv):
        _, equals, after = argv[position].partition("=")
        if _option_name(argv[position]) != option:
            rest.append(argv[position])
        elif equals:
            value = after
        elif position + 1 < len(argv) and not argv[position + 1].startswith("--"):
            position += 1
            value = argv[position]
        else:
            raise UsageError(f"--{option} needs the name of a variant: {', '.join(names)}")
        position += 1
    return value, rest


def _option_name(argument: str) -> str | None:
    if not argument.startswith("--"):
        return None
    return argument.partition("=")[0].removeprefix("--").replace("_", "-")


def _field_names(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _subclasses(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        # A class that pydantic has not checked is no config, and cannot stand in one.
        if "__pydantic_fields__" in vars(cls):
            yield cls
            yield from _subclasses(cls)


def _classes_beside(base: type) -> list[tuple[str, frozenset[str], str]]:
    package = ".".join(base.__module__.split(".")[:2])
    is_ours = package.startswith("jaxgpt.") and package != base.__module__
    return _classes_in(package) if is_ours else []


@functools.cache
def _classes_in(package: str) -> list[tuple[str, frozenset[str], str]]:
    """Return (name, names of its bases, module) of each class in the files of a package."""
    spec = importlib.util.find_spec(package)
    found = []
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).rglob("*.py")):
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            for match in _CLASS.finditer(path.read_text(encoding="utf-8")):
                parents = frozenset(name.strip() for name in match.group(2).split(","))
                found.append((match.group(1), parents, f"{package}.{module}"))
    return found
