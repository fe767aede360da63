"""`scoring`: what it counts, and that both sides score the same requests alike."""

import json

import pytest

from jaxgpt.benchmarks.inputs.shapes import SHAPES
from jaxgpt.benchmarks.scoring import count_operations, make_pairs
from jaxgpt.errors import ConfigError
from jaxgpt.tools.benchmark import main
from tests.evaluation.tiny_scoring import load_tiny


def test_operations_are_those_of_tokens_and_of_scored_ones() -> None:
    loaded = load_tiny()
    config, vocab_size = loaded.model.config, loaded.model.vocab_size
    head = 2 * config.d_model * config.pad_vocab(vocab_size)
    one = count_operations(loaded, [([1, 2, 3], [4])])
    # Another token of the context costs the layers, another scored one the head as well.
    layers = count_operations(loaded, [([1, 2, 3, 4], [5])]) - one
    assert count_operations(loaded, [([1, 2, 3], [4, 5])]) - one == layers + head
    assert one == 3 * layers + head


def test_requests_have_four_choices_and_fit() -> None:
    pairs = make_pairs(3, SHAPES["tiny"])
    assert len(pairs) == 12
    for number in range(0, 12, 4):
        assert len({tuple(context) for context, _ in pairs[number : number + 4]}) == 1
    assert all(len(context) + len(ids) <= 32 for context, ids in pairs)


@pytest.mark.slow
def test_beside_the_harness_the_ratio_is_of_the_two(capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "transformers", "lm_eval"):
        pytest.importorskip(package, reason="needs: pip install -e '.[parity,harness]'")
    # Other log-likelihoods would be an error.
    main(["scoring", "--shape", "tiny", "--against", "lm-eval", "--rounds", "1", "--json",
          "--num-questions", "2"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["against"]["ratio"] == pytest.approx(found["value"] / found["against"]["value"])
    with pytest.raises(ConfigError, match="at least 1"):
        main(["scoring", "--rounds", "0"])
