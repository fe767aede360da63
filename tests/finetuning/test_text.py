"""New text with a share of the old: the rows of each are as many as asked for."""

from pathlib import Path

import numpy as np
import pytest

from jaxgpt.data.loader import BatchConfig, WeightedDataset, open_training_batches
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.text import NewText
from jaxgpt.tokenizer.tokenizer import Tokenizer
from tests.tiny import make_dataset

NUM_ROWS = 80


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Write a dataset of new text and two of old text, each with a digit of its own."""
    folder = tmp_path_factory.mktemp("text")
    first = make_dataset(folder / "0", texts=["0" * 50] * 60)
    tokenizer = Tokenizer.load(first)
    others = [
        make_dataset(folder / digit, tokenizer=tokenizer, texts=[digit * 50] * 60) for digit in "12"
    ]
    return (first, *others)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_old_text_has_its_share_of_the_rows(datasets: tuple[Path, ...], share: float) -> None:
    new, *old = (str(path) for path in datasets)
    weighted = tuple(
        WeightedDataset(path=path, weight=weight) for path, weight in zip(old, (3, 1), strict=True)
    )
    data = NewText(
        datasets=(WeightedDataset(path=new, weight=5.0),), replayed=weighted, replay_share=share
    )
    batch = BatchConfig(sequence_length=8, global_batch_size=NUM_ROWS)
    tokens_BT = open_training_batches(data.mixture(), batch, 0).batch(0).tokens_BT
    tokenizer = Tokenizer.load(datasets[0])
    rows = ["".join(tokenizer.decode(row)) for row in np.asarray(tokens_BT)]
    counts = [sum(digit in row for row in rows) for digit in "012"]
    expected = [NUM_ROWS * part for part in (1 - share, share * 0.75, share * 0.25)]
    np.testing.assert_allclose(counts, expected, atol=1.5 if share else 0)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_no_new_text_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="replay_share"):
        NewText(replay_share=share)
