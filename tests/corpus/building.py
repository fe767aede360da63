"""What tests of whole builds share: a config, a corpus, and what a dataset folder holds."""

import itertools
import json
import random
from pathlib import Path

import zstandard

from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.documents.splits import HashSplit
from jaxgpt.corpus.execution.config import ExecutorConfig
from jaxgpt.corpus.readers.sources import SourcesConfig
from jaxgpt.corpus.stages.train_tokenizer import DatasetTokenizer
from jaxgpt.data.shards import TokenDataset

CONFIG = DatasetConfig(
    sources=SourcesConfig(max_bad_share=1.0),
    split=HashSplit(val_fraction=0.2),
    tokenizer=DatasetTokenizer(kind="char", vocab_size=400),
    executor=ExecutorConfig(kind="serial"),
)


def write_lines(path, *records):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = (
        record if isinstance(record, bytes) else json.dumps(record).encode() for record in records
    )
    Path(path).write_bytes(b"".join(line + b"\n" for line in lines))


def removed(output):
    with zstandard.open(Path(output) / "removed.jsonl.zst", "rt") as file:
        return [json.loads(line) for line in file]


def stored_texts(output):
    """{split: texts in order}, decoded from the shards."""
    dataset = TokenDataset.open(output)
    tokenizer = dataset.load_tokenizer()
    texts = {}
    for name, split in dataset.splits.items():
        starts = [*split.document_starts(0, split.num_tokens), split.num_tokens]
        texts[name] = []
        for start, stop in itertools.pairwise(starts):
            ids = split.read(start, stop).tolist()
            assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
            texts[name].append(tokenizer.decode(ids))
    return texts


def everything(folder):
    """{path: bytes} of all files of a dataset."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def make_corpus(folder, seed=0):
    """A few files of several kinds, with bad records, duplicates and empties."""
    chooser = random.Random(seed)
    words = [f"word{i}" for i in range(50)]

    def text():
        return " ".join(chooser.choices(words, k=chooser.randint(3, 60)))

    texts = [text() for _ in range(150)]
    write_lines(
        f"{folder}/a.jsonl", *({"id": f"a{i}", "text": t} for i, t in enumerate(texts[:80]))
    )
    write_lines(
        f"{folder}/sub/b.jsonl",
        *({"id": f"b{i}", "text": t} for i, t in enumerate(texts[60:])),
        {"text": ""},
        b"not json",
        {"text": "caf\u0000e\r\n"},
    )
    for i in range(20):
        Path(f"{folder}/sub/{i}.txt").write_text(chooser.choice(texts) + "\n", "utf-8")
    return texts
