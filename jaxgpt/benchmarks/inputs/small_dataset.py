"""A dataset for measures of whole runs: some text of the Python standard library."""

from pathlib import Path

from jaxgpt.benchmarks.inputs.texts import read_texts
from jaxgpt.data.manifest import write_manifest
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer


def make_small_dataset(folder: Path, max_bytes: int = 1 << 20, vocab_size: int = 1024) -> Path:
    """Write a dataset folder of about `max_bytes` bytes of text, a tenth of it for validation."""
    texts = [document.text for document in read_texts((), folder, max_bytes)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=vocab_size))
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    num_val = max(1, len(texts) // 10)
    splits = {}
    for name, part in {"train": texts[num_val:], "val": texts[:num_val]}.items():
        with ShardWriter(folder, name, tokenizer) as writer:
            for text in part:
                writer.add(tokenizer.encode(text), len(text.encode()))
        splits[name] = writer.shards
    write_manifest(folder, tokenizer, splits, {"sources": [], "settings": {}, "counts": {}})
    return folder
