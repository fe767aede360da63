"""A model that llama.cpp would compute otherwise is refused by the field."""

import pytest

from jaxgpt.config import replace
from jaxgpt.errors import ConfigError
from jaxgpt.interchange.architectures import choose_architecture
from jaxgpt.interchange.gguf.architectures import find_llama_cpp
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layers.feed_forward import Gelu
from jaxgpt.model.layers.rope_scaling import Llama3
from tests.interchange.exported import CONFIGS

QWEN3, GPT2 = CONFIGS["qwen3"], CONFIGS["gpt2"]
GEMMA2 = replace(
    CONFIGS["gemma2"], attention=replace(CONFIGS["gemma2"].attention, query_scale=None)
)


def _with_windows(*windows: int | None) -> GptConfig:
    return replace(GEMMA2, attention=replace(GEMMA2.attention, windows=windows))


@pytest.mark.parametrize(
    "config", [*(CONFIGS[name] for name in ("llama", "llama3", "qwen3", "gpt2")), GEMMA2,
               _with_windows(40, None), _with_windows(None), _with_windows(None, 64)]
)  # fmt: skip
def test_what_llama_cpp_computes_alike_is_taken(config: GptConfig) -> None:
    architecture = choose_architecture(config)
    found = find_llama_cpp(architecture, architecture.write_config(config, 64))
    assert architecture.name.lower().startswith(found.name)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIGS["mistral"], "of MistralForCausalLM: .* without their windows"),
        (CONFIGS["llama_yarn"], "scaling is yarn, and those that are written are linear, llama3"),
        (
            replace(QWEN3, position=replace(QWEN3.position, scaling=Llama3())),
            "as qwen3: model.position.scaling is llama3",
        ),
        (CONFIGS["gemma2"], "as gemma2: model.attention.query_scale is not"),
        (replace(GEMMA2, num_layers=46), r"query_scale is not the root of 1 / \(d_model"),
        (_with_windows(None, 40), "model.attention.windows is not a window on every second"),
        (_with_windows(40, 40), "model.attention.windows is not a window on every second"),
        (
            replace(GPT2, feed_forward=Gelu(hidden=48, use_bias=True, exact=True)),
            "as gpt2: model.feed_forward.exact is True",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(config: GptConfig, said: str) -> None:
    architecture = choose_architecture(config)
    with pytest.raises(ConfigError, match=said):
        find_llama_cpp(architecture, architecture.write_config(config, 64))
