"""Batches of datasets on disk: the text comes back, and datasets must share a tokenizer."""

import numpy as np
import pytest

from jaxgpt.data.loader import (
    BatchConfig,
    DataConfig,
    WeightedDataset,
    evaluation_batches,
    open_training_batches,
)
from jaxgpt.data.manifest import write_manifest
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.errors import MismatchError
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer

TEXTS = [f"document {number}: " + "abc def " * (number % 7) for number in range(60)]
SIZE = BatchConfig(sequence_length=16, global_batch_size=8)


def char_tokenizer(alphabet):
    config = TokenizerConfig(kind="char", vocab_size=400, character_coverage=1.0)
    return train_tokenizer([alphabet], config)


def write_dataset(directory, tokenizer, texts=TEXTS):
    splits = {}
    for split, part in (("train", texts), ("val", texts[:5])):
        with ShardWriter(directory, split, tokenizer, max_shard_tokens=100) as writer:
            for text in part:
                writer.add(tokenizer.encode(text), num_bytes=len(text.encode()))
        splits[split] = writer.shards
    tokenizer.save(directory / "tokenizer")
    write_manifest(directory, tokenizer, splits, {})
    return WeightedDataset(path=str(directory))


@pytest.fixture(scope="module")
def tokenizer():
    return char_tokenizer("".join(TEXTS))


def test_windows_across_shards_are_the_text(tmp_path, tokenizer):
    data = DataConfig(datasets=(write_dataset(tmp_path / "d", tokenizer),))
    batches = open_training_batches(data, SIZE, seed=1)
    whole = "".join(TEXTS)
    for step in range(20):
        batch = batches.batch(step)
        for tokens in batch.tokens_BT:
            assert tokenizer.decode(tokens.tolist()) in whole
        begins = batch.tokens_BT == tokenizer.bos_id
        assert (batch.positions_BT[begins] == 0).all()
        assert (batch.loss_weights_BT == (batch.targets_BT != tokenizer.bos_id)).all()


def test_evaluation_predicts_the_text_and_the_end_of_each_document(tmp_path, tokenizer):
    data = DataConfig(datasets=(write_dataset(tmp_path / "d", tokenizer),))
    split = open_training_batches(data, SIZE, seed=1).datasets[0].splits["val"]
    targets = [
        batch.targets_BT[batch.loss_weights_BT > 0] for batch in evaluation_batches(split, 16, 4)
    ]
    expected = [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS[:5]]
    assert np.concatenate(targets).tolist() == [id for ids in expected for id in ids]


def test_another_tokenizer_is_refused_with_both_datasets_named(tmp_path, tokenizer):
    one = write_dataset(tmp_path / "one", tokenizer)
    same = write_dataset(tmp_path / "same", tokenizer, TEXTS[:30])
    other = write_dataset(tmp_path / "other", char_tokenizer("".join(TEXTS) + "éß"))
    open_training_batches(DataConfig(datasets=(one, same)), SIZE, 0)
    with pytest.raises(MismatchError, match=r"one was made with tokenizer \w{12} and .*other"):
        open_training_batches(DataConfig(datasets=(one, same, other)), SIZE, 0)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(MismatchError, match="not a complete dataset"):
        open_training_batches(DataConfig(datasets=(WeightedDataset(path=str(tmp_path)),)), SIZE, 0)
