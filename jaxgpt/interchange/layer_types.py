"""Windows of attention by layer in a published config: `layer_types` and `sliding_window`."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architecture import Field

_FULL, _SLIDING = "full_attention", "sliding_attention"


def _read(theirs: Mapping[str, Any]) -> tuple[int | None, ...]:
    windows = {_FULL: None, _SLIDING: theirs.get("sliding_window")}
    kinds = theirs["layer_types"]
    if unknown := sorted(set(kinds) - windows.keys()):
        raise ConfigError(
            f"config.json has the layer type {unknown[0]!r}; those that are read are "
            f"{', '.join(windows)}"
        )
    return tuple(windows[kind] for kind in kinds)


def _read_full(theirs: Mapping[str, Any]) -> tuple[int | None, ...]:
    if kinds := set(theirs["layer_types"] or ()) - {_FULL}:
        raise ConfigError(
            f"config.json has the layer type {min(kinds)!r}; this architecture is read with "
            f"{_FULL!r} only"
        )
    return (None,)


def sliding_layers(default_window: int, default: Callable[[int], list[str]]) -> Field:
    """Return the field of an architecture in which some layers have a window.

    Args:
        default_window: the window where config.json names none.
        default: returns the types of a number of layers where config.json names none.
    """

    def write(windows: tuple[int | None, ...]) -> dict[str, Any]:
        sizes = {window for window in windows if window is not None}
        kinds = [_FULL if window is None else _SLIDING for window in windows]
        # Windows of different sizes have no place there: they come back as one.
        return {"layer_types": kinds, "sliding_window": min(sizes, default=default_window)}

    def read(theirs: Mapping[str, Any]) -> tuple[int | None, ...]:
        kinds = theirs["layer_types"] or default(theirs["num_hidden_layers"])
        return _read({**theirs, "layer_types": kinds})

    fields = {"layer_types": None, "sliding_window": default_window}
    return Field(fields, ("attention.windows",), write, read)


def alternating(num_layers: int) -> list[str]:
    """Return Gemma 2's types: layers with a window and without one take turns."""
    return [_FULL if layer % 2 else _SLIDING for layer in range(num_layers)]


# No window on any layer.
FULL_ATTENTION = Field({"layer_types": None}, ("attention.windows",), lambda _: {}, _read_full)
