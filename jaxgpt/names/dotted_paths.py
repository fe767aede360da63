"""Name values inside JSON by dotted path: `config.schedule.num_steps`, `data.datasets[0].share`."""

from collections.abc import Iterator, Mapping
from typing import Any


def find_differences(
    first: Any, second: Any, *, absent: Any = None, into_lists: bool = True, name: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, first value, second value) for each difference of two JSON values.

    Args:
        first, second: what to compare; keys come in the order of `first`, then of `second`.
        absent: stands for the value of a key that is on one side only.
        into_lists: compare lists of equal length by item; False compares them as a whole.
        name: path of the two values.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield from find_differences(
                first.get(key, absent),
                second.get(key, absent),
                absent=absent,
                into_lists=into_lists,
                name=f"{name}.{key}" if name else str(key),
            )
    elif into_lists and is_list(first) and is_list(second) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            path = f"{name}[{index}]"
            yield from find_differences(one, other, absent=absent, name=path)
    elif first != second:
        yield name, first, second


def is_list(value: Any) -> bool:
    """Return whether a value is a JSON list."""
    return isinstance(value, list | tuple)
