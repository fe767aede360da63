"""Rotary positions in a published config: `rope_theta` and `rope_scaling`, or `rope_parameters`."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers.positions import Position, Rotary
from jaxgpt.model.layers.rope_scaling import LinearScaling, Llama3, NoScaling, Yarn

# Name of each scaling in their config: our class, and our field by their name.
_SCALINGS = {
    "default": (NoScaling, {}),
    "linear": (LinearScaling, {"factor": "factor"}),
    "llama3": (
        Llama3,
        {
            "factor": "factor",
            "low_freq_factor": "low_frequency_factor",
            "high_freq_factor": "high_frequency_factor",
            "original_max_position_embeddings": "original_length",
        },
    ),
    "yarn": (
        Yarn,
        {
            "factor": "factor",
            "original_max_position_embeddings": "original_length",
            "beta_fast": "fast_turns",
            "beta_slow": "slow_turns",
            "attention_factor": "attention_factor",
        },
    ),
}
_FLOATS = {"factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"}


def write_rope(position: Position) -> dict[str, Any]:
    """Return their fields for rotary positions; none for others.

    Both versions 4 and 5 of transformers read this older form.
    """
    if not isinstance(position, Rotary):
        return {}
    fields: dict[str, Any] = {"rope_theta": position.max_wavelength}
    for kind, (cls, names) in _SCALINGS.items():
        if type(position.scaling) is cls and names:
            values = {theirs: getattr(position.scaling, ours) for theirs, ours in names.items()}
            values = {name: value for name, value in values.items() if value is not None}
            fields["rope_scaling"] = {"rope_type": kind, **values}
    return fields


def read_rope(theirs: Mapping[str, Any]) -> Rotary:
    """Return the positions of a published config, which has every field of rotary positions.

    Raises:
        ConfigError: a kind of scaling, or a field of it, that is not built here.
    """
    given = theirs["rope_parameters"] or theirs["rope_scaling"] or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"rope_scaling is {given!r}; it must be an object with a rope_type")
    parameters = dict(given)
    theta = parameters.pop("rope_theta", None) or theirs["rope_theta"]
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    if kind not in _SCALINGS:
        raise ConfigError(
            f"rope_scaling has the type {kind!r}; those that are read are {', '.join(_SCALINGS)}"
        )
    cls, names = _SCALINGS[kind]
    if unknown := sorted(parameters.keys() - names.keys()):
        raise ConfigError(
            f"rope_scaling of the type {kind} has the field {unknown[0]!r}; fields that are read "
            f"are {', '.join(names) or 'none'}"
        )
    if "original_max_position_embeddings" in names:
        parameters.setdefault("original_max_position_embeddings", theirs["max_position_embeddings"])
    scaling = {
        names[name]: float(value) if name in _FLOATS else value
        for name, value in parameters.items()
    }
    return Rotary(max_wavelength=float(theta), scaling=cls(**scaling))
