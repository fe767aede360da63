"""All architectures that models leave and arrive in, and the choice of one."""

from collections.abc import Mapping
from typing import Any

from jaxgpt.errors import ConfigError, did_you_mean
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.gemma2 import GEMMA2
from jaxgpt.interchange.gpt2 import GPT2
from jaxgpt.interchange.llama import LLAMA
from jaxgpt.interchange.mistral import MISTRAL
from jaxgpt.interchange.qwen2 import QWEN2
from jaxgpt.interchange.qwen3 import QWEN3
from jaxgpt.model.gpt import GptConfig

# A model leaves as the first one that has all of it.
ARCHITECTURES = {item.name: item for item in (LLAMA, MISTRAL, QWEN3, QWEN2, GPT2, GEMMA2)}


def choose_architecture(config: GptConfig) -> Architecture:
    """Return the architecture that a model of ours has.

    Raises:
        ConfigError: none; the closest one is named, with each field that it does not have.
    """
    differences = {item.name: item.differences(config) for item in ARCHITECTURES.values()}
    name = min(differences, key=lambda each: len(differences[each]))
    if differences[name]:
        raise ConfigError(
            "no architecture that other tools read has this model; closest is "
            f"{name}, but {'; '.join(differences[name])}. A model that is to leave must be trained "
            f"with these values (architectures: {', '.join(ARCHITECTURES)})"
        )
    return ARCHITECTURES[name]


def find_architecture(theirs: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a config.json names.

    Raises:
        ConfigError: none, or one that is not read here.
    """
    names = theirs.get("architectures") or []
    if len(names) == 1 and names[0] in ARCHITECTURES:
        return ARCHITECTURES[names[0]]
    by_type = [
        each for each in ARCHITECTURES.values() if each.model_type == theirs.get("model_type")
    ]
    if not names and by_type:
        return by_type[0]
    named = names[0] if names else theirs.get("model_type")
    raise ConfigError(
        f"config.json names the architecture {named!r}{did_you_mean(str(named), ARCHITECTURES)}; "
        f"those that are read are {', '.join(ARCHITECTURES)}"
    )
