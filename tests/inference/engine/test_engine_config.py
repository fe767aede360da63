"""The size of an engine, and the chunks in which it reads prompts."""

import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.inference.engine import EngineConfig
from jaxgpt.inference.engine.slots.slots import chunk_shape


@pytest.mark.parametrize(
    ("max_length", "chunk"),
    [(1, 1), (2, 1), (3, 1), (100, 50), (512, 256), (4096, 256)],
)
def test_a_chunk_is_half_of_a_slot_and_no_more_than_256_tokens(max_length: int, chunk: int) -> None:
    config = EngineConfig()
    assert config.chunk_of(max_length) == chunk
    assert EngineConfig(prefill_chunk=32).chunk_of(max_length) == 32
    for num_tokens in {1, chunk}:
        assert num_tokens <= chunk_shape(num_tokens, chunk, max_length) <= max(chunk, 16)


@pytest.mark.parametrize("name", ["num_slots", "max_length", "prefill_chunk", "steps_per_visit"])
def test_a_size_below_one_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1"):
        EngineConfig(**{name: 0})
