"""Roles of the fields of a model's config: which of them a continued run may change.

A field without a mark is architecture: it decides which parameters there are, or what is computed
from them. `kernel: Execution[AttentionKernel]` and `dropout: Training[Dropout]` are not.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from jaxgpt.config import from_dict, to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.type_tags import TYPE_KEY, find_class, with_current_tags

T = TypeVar("T")

ARCHITECTURE = None
EXECUTION = "execution"
TRAINING = "training"
_MARKS = (EXECUTION, TRAINING)

# The same function of the same parameters but for rounding: speed and memory.
Execution = Annotated[T, EXECUTION]
# How parameters begin, or what is minimised; without effect on a model that is not trained.
Training = Annotated[T, TRAINING]


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
