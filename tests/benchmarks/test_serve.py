"""`serve`: requests at once beside the same one by one, and what it refuses."""

import json

import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.tools.benchmark import main

TINY = ["serve", "--shape", "tiny", "--rounds", "1", "--json"]


def test_requests_at_once_are_measured_beside_the_same_one_by_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main([*TINY, "--requests", "3", "--prompt-tokens", "6", "--new-tokens", "5"])
    found = json.loads(capsys.readouterr().out)
    assert found["against"]["name"] == "sequential"
    assert found["against"]["ratio"] == pytest.approx(found["value"] / found["against"]["value"])
    assert found["settings"]["requests"] == 3
    assert found["settings"]["times the forward pass"] > 0


def test_sides_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs --checkpoint and --gguf, an export of the same"):
        main([*TINY, "--against", "llama.cpp"])
    with pytest.raises(ConfigError, match="needs --checkpoint and --folder, an export of the sam"):
        main([*TINY, "--against", "transformers", "--checkpoint", "run"])
    with pytest.raises(ConfigError, match="nothing else reads --gguf"):
        main([*TINY, "--checkpoint", "run", "--gguf", "model.gguf"])
    with pytest.raises(ConfigError, match="at least 1"):
        main([*TINY, "--requests", "0"])
