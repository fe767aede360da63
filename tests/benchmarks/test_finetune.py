"""`finetune`: its examples, and that both sides train on the same ones."""

import json

import numpy as np
import pytest

from jaxgpt.benchmarks.inputs.example_rows import sample_examples
from jaxgpt.benchmarks.inputs.shapes import SHAPES
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.batches import PackedRows
from jaxgpt.tools.benchmark import main


def test_examples_fit_into_rows_and_their_answers_are_the_targets() -> None:
    shape = SHAPES["tiny"]
    examples = sample_examples(40, shape)
    for index in range(40):
        tokens, weights = examples.sequence(index)
        first = int(np.argmax(weights))
        assert 0 < first < len(tokens)
        assert weights.tolist() == [0.0] * first + [1.0] * (len(tokens) - first)
        assert tokens.max() < shape.vocab_size
    packed = PackedRows(examples, shape.sequence_length)
    batch = packed.batch(range(len(packed)))
    assert np.count_nonzero(batch.loss_weights_BT) == examples.num_targets


@pytest.mark.slow
def test_next_to_trl_the_ratio_is_of_the_two(capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "transformers", "trl"):
        pytest.importorskip(package, reason="needs: pip install -e '.[trl]'")
    # Another first loss would be an error.
    main(["finetune", "--shape", "tiny", "--against", "trl", "--rounds", "1", "--steps", "1",
          "--num-examples", "100", "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["against"]["ratio"] == pytest.approx(found["value"] / found["against"]["value"])
    with pytest.raises(ConfigError, match="at least 1"):
        main(["finetune", "--rounds", "0"])
