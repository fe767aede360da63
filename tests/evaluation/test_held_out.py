"""Opening text to score, and reading it back as documents."""

from pathlib import Path

import pytest

from jaxgpt.data.manifest import write_manifest
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.errors import BadInputError, MismatchError, UsageError
from jaxgpt.evaluation import held_out
from jaxgpt.evaluation.held_out import open_split, read_documents
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer

TEXTS = ["the cat sat on the mat. " * 9, "", "dogs, naïve 🎉\n", "one " * 200, "end"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocab_size=300))


@pytest.fixture(scope="module")
def dataset(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    tokenizer.save(folder / "tokenizer")
    splits = {}
    for name, texts in {"train": TEXTS, "val": [], "blank": ["", ""]}.items():
        # Shards so small that the long document goes on through several of them.
        with ShardWriter(folder, name, tokenizer, max_shard_tokens=50) as writer:
            for text in texts:
                writer.add(tokenizer.encode(text), len(text.encode()))
        splits[name] = writer.shards
    write_manifest(folder, tokenizer, splits, {"sources": [], "settings": {}, "counts": {}})
    return folder


@pytest.mark.parametrize("tokens_at_a_time", [1, 7, 50, 1 << 20])
def test_documents_come_back_whole_and_in_order(
    dataset: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tokens_at_a_time: int
) -> None:
    monkeypatch.setattr(held_out, "_TOKENS_AT_A_TIME", tokens_at_a_time)
    split = open_split(dataset, "train", tokenizer, "run")
    assert len(split.shards) > 3
    assert list(read_documents(split, tokenizer)) == [text.encode() for text in TEXTS]


def test_a_split_must_exist_and_hold_something_to_predict(
    dataset: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UsageError, match=r"no split 'trian'; did you mean 'train'\?; it has"):
        open_split(dataset, "trian", tokenizer, "run")
    with pytest.raises(BadInputError, match="has no token to predict"):
        open_split(dataset, "val", tokenizer, "run")
    # Documents without text have an end to predict.
    assert open_split(dataset, "blank", tokenizer, "run").num_documents == 2


def test_another_tokenizer_is_refused_with_both_named(dataset: Path, tokenizer: Tokenizer) -> None:
    other = train_tokenizer(TEXTS, TokenizerConfig(kind="unigram", vocab_size=290))
    with pytest.raises(MismatchError) as refusal:
        open_split(dataset, "train", other, "my/run")
    for part in (str(dataset), "my/run", tokenizer.fingerprint[:12], other.fingerprint[:12]):
        assert part in str(refusal.value)
    assert "bpe" in str(refusal.value)
    assert "unigram" in str(refusal.value)
