"""Each field of a model's config is marked as what it decides: seen by changing it."""

import contextlib
import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pydantic
import pytest

import jaxgpt.model
from jaxgpt.config import (
    ARCHITECTURE,
    EXECUTION,
    TRAINING,
    from_dict,
    replace,
    roles,
    select_fields,
    to_dict,
    with_defaults,
)
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.attention.kernel import AttentionKernel
from jaxgpt.model.attention.reference import Reference
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import LayerStack, Scanned
from jaxgpt.model.layers.projection import Dropout, Initialization
from jaxgpt.model.layers.rope_scaling import LinearScaling, Yarn
from jaxgpt.model.moe.dispatch import Dispatch, Dropless
from jaxgpt.model.remat import FullRemat, Remat
from tests.model.tiny_model import PLAIN, VARIANTS, VOCAB_SIZE, init, random_tokens

# Sections of these are marked as a whole: what is below them has the role of the mark.
MARKED_SECTIONS = (AttentionKernel, Dispatch, Dropout, Initialization, LayerStack, Remat)
ROLES = {
    ARCHITECTURE: {
        "GptConfig": "num_layers d_model position attention feed_forward norm head scale_embedding "
        "param_dtype vocab_multiple",
        "Learned": "max_length",
        "Rotary": "max_wavelength scaling",
        "Sinusoidal": "max_wavelength amplitude",
        "LinearScaling": "factor",
        "Llama3": "factor low_frequency_factor high_frequency_factor original_length",
        "Yarn": "factor original_length fast_turns slow_turns attention_factor",
        "GroupedQueryAttention": "num_heads num_kv_heads head_dim windows qkv_bias output_bias "
        "qk_norm soft_cap query_scale",
        "PlainFeedForward": "hidden use_bias",
        "GatedFeedForward": "hidden use_bias",
        "Gelu": "hidden use_bias exact",
        "Relu2": "hidden use_bias",
        "SwiGlu": "hidden use_bias",
        "GeGlu": "hidden use_bias",
        "MixtureOfExperts": "num_experts num_active expert shared gates",
        "RmsNorm": "eps offset learned_scale",
        "LayerNorm": "eps use_bias",
        "Sandwich": "norm",
        "LanguageModelHead": "tied soft_cap",
        "ClassificationHead": "num_classes",
        "TokenClassificationHead": "num_classes",
        "LowRank": "rank alpha rank_stabilized targets token_ids",
        "Lora": "rank alpha rank_stabilized targets token_ids",
        "Dora": "rank alpha rank_stabilized targets token_ids",
    },
    EXECUTION: {
        "GptConfig": "compute_dtype layers remat",
        "GroupedQueryAttention": "kernel",
        "MixtureOfExperts": "dispatch",
    },
    TRAINING: {
        "GptConfig": "dropout initialization",
        "LanguageModelHead": "zero_init",
        "MixtureOfExperts": "load_balance router_z_loss",
        "LowRank": "dropout",
        "Lora": "dropout",
        "Dora": "dropout",
    },
}
# Another value of a field whose type does not tell one.
OTHERS: dict[str, Any] = {
    "kernel": Reference(),
    "dispatch": Dropless(block_size=8),
    "remat": FullRemat(),
    "layers": Scanned(),
    "dropout": Dropout(residual=0.5),
    "initialization": Initialization(std=0.5),
    "compute_dtype": "bfloat16",
    "param_dtype": "bfloat16",
    "windows": (2,),
    "hidden": 20,
    "head_dim": 4,
    "num_kv_heads": 2,
    "num_heads": 2,
    "num_active": 1,
    "soft_cap": 0.5,
    "query_scale": 2.0,
    "attention_factor": 3.0,
    "slow_turns": 0.01,
    "scaling": LinearScaling(factor=5.0),
    "vocab_multiple": 48,
    "qk_norm": PLAIN.norm,
    "shared": PLAIN.feed_forward,
}
TOKENS_BT = random_tokens((2, 12))


def _other(name: str, value: Any) -> Any:
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value
    if isinstance(value, float):
        return 4 * value + 0.5
    raise KeyError(f"give another value of the field {name} to OTHERS")


def _places(section: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[type, str, tuple, Any]]:
    """Yield (class, field, path, value) of every field below a config."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        here = (*path, field.name)
        role = roles(type(section))[field.name]
        if dataclasses.is_dataclass(value) and role is ARCHITECTURE:
            yield from _places(value, here)
        else:
            yield type(section), field.name, here, value


def _cases() -> dict[str, tuple[GptConfig, GptConfig, str | None]]:
    """Return, by field, a config, the same with another value of the field, and its role."""
    found: dict[str, tuple[GptConfig, GptConfig, str | None]] = {}
    for config in VARIANTS.values():
        for cls, name, path, value in _places(config):
            other = to_dict(config)
            node = other
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = to_dict(_other(name, value))
            if cls is Yarn and name in ("original_length", "fast_turns"):
                continue  # The few frequencies of a head this small do not show it.
            with contextlib.suppress(ConfigError):
                changed = from_dict(other, GptConfig)
                found.setdefault(f"{cls.__name__}.{name}", (config, changed, roles(cls)[name]))
    return found


CASES = _cases()


def _shapes(config: GptConfig) -> Any:
    return jax.tree.map(
        lambda leaf: (leaf.shape, str(leaf.dtype)), abstract_params(config, VOCAB_SIZE)
    )


@functools.cache
def _logits(config: GptConfig, first: GptConfig) -> np.ndarray:
    """Logits of a config with the parameters of the first."""
    model, params = config.build(VOCAB_SIZE), init(first)[1]
    out = jax.jit(lambda params: model.apply({"params": params}, TOKENS_BT)[0])(params)
    return np.asarray(out)[..., :VOCAB_SIZE]


def _difference(case: str, config: GptConfig, other: GptConfig) -> float:
    """Root mean square of what logits of the same parameters differ by, relative to theirs."""
    if "layers" not in case:
        # A loop over layers compiles in half the time.
        config, other = replace(config, layers=Scanned()), replace(other, layers=Scanned())
    before, after = _logits(config, config), _logits(other, config)
    return float((after - before).std() / before.std())


def _config_classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(jaxgpt.model.__path__, "jaxgpt.model."):
        for cls in vars(importlib.import_module(module.name)).values():
            if getattr(cls, "__module__", None) != module.name:
                continue
            if isinstance(cls, type) and pydantic.dataclasses.is_pydantic_dataclass(cls):
                yield cls


def test_every_field_has_been_given_a_role() -> None:
    """A new field fails here until somebody has decided what it is."""
    found = {
        cls.__name__: roles(cls)
        for cls in _config_classes()
        if not issubclass(cls, MARKED_SECTIONS)
    }
    for role, table in ROLES.items():
        decided = {name: set(fields.split()) for name, fields in table.items()}
        for name, fields in found.items():
            assert {field for field in fields if fields[field] == role} == decided.get(name, set())


@pytest.mark.parametrize("case", CASES)
def test_what_decides_the_parameters_is_architecture(case) -> None:
    config, other, role = CASES[case]
    if _shapes(config) != _shapes(other):
        assert role is ARCHITECTURE


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_of_the_same_parameters_architecture_alone_changes_logits(case) -> None:
    config, other, role = CASES[case]
    if _shapes(config) != _shapes(other):
        return
    difference = _difference(case, config, other)
    if role is ARCHITECTURE:
        assert difference > 1e-4
    else:
        assert difference < (0.05 if "compute_dtype" in case else 1e-5)


def test_fields_are_selected_by_role_below_sections_that_have_none() -> None:
    config = to_dict(
        replace(PLAIN, attention=GroupedQueryAttention(num_heads=4, kernel=Reference()))
    )
    architecture = select_fields(config, ARCHITECTURE)
    assert "kernel" not in architecture["attention"]
    assert architecture["attention"]["num_heads"] == 4
    assert not {"remat", "layers", "compute_dtype", "dropout"} & architecture.keys()
    training = select_fields(config, TRAINING)
    assert training["dropout"] == to_dict(PLAIN.dropout)
    assert "num_layers" not in training
    assert select_fields(config, EXECUTION)["attention"]["kernel"] == to_dict(Reference())


def test_what_this_version_has_no_class_for_is_architecture() -> None:
    section = {"type": "jaxgpt.model.gpt:Gone", "remat": 1, "attention": {"kernel": 2}}
    assert select_fields(section, ARCHITECTURE) == section
    assert with_defaults(section, to_dict(PLAIN)) == [section, to_dict(PLAIN)]


def test_a_field_that_an_older_version_did_not_have_gets_its_default() -> None:
    whole = to_dict(PLAIN)
    older = {name: value for name, value in whole.items() if name != "scale_embedding"}
    assert with_defaults(older) == [whole]
