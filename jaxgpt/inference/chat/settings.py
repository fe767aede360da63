"""Settings of the answers in a chat; `/set` changes one by its name."""

import json
from dataclasses import fields
from typing import Annotated, Any

import tyro

from jaxgpt.config import configclass, replace
from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.inference.sampling import SamplingConfig


@configclass
class ChatSettings:
    """Settings of a conversation."""

    system: str = ""
    """System message, which precedes the conversation; empty: none."""
    max_new_tokens: int | None = None
    """Most new tokens of an answer; None: up to 256, within the context of training."""
    seed: int = 0
    """Random seed of sampling, below 2**64; equal seeds and conversations give equal answers."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = SamplingConfig(temperature=0.7)
    """Sampling of the next token."""

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(
                f"max_new_tokens = {self.max_new_tokens}; allowed: at least 1, or None"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed = {self.seed}; allowed: from 0 to 2**64 - 1")

    def values(self) -> dict[str, Any]:
        """Return the values that `with_value` changes, by name."""
        own = {"max_new_tokens": self.max_new_tokens, "seed": self.seed}
        drawn = {field.name: getattr(self.sampling, field.name) for field in fields(self.sampling)}
        return {**own, **drawn}

    def with_value(self, name: str, text: str) -> "ChatSettings":
        """Return the settings with another value.

        Args:
            name: one of `values`.
            text: the value as it is typed: a number, `none`, or texts as a list of JSON.

        Raises:
            UsageError: there is no such value.
            ConfigError: the value is not allowed.
        """
        name = name.replace("-", "_")
        if name not in self.values():
            known = ", ".join(self.values())
            raise UsageError(
                f"no setting {name!r}{did_you_mean(name, self.values())}; there are {known}"
            )
        value = _parse(text)
        if isinstance(self.values()[name], tuple):
            value = tuple(value) if isinstance(value, list) else (text,) * (value is not None)
        change = {name: value}
        if hasattr(self.sampling, name):
            return replace(self, sampling=replace(self.sampling, **change))
        return replace(self, **change)


def _parse(text: str) -> Any:
    """Return what a person means by a value; a text that is nothing else stays one."""
    if text.lower() == "none":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text
