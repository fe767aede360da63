"""Filters and edits as a stage: every document passes every step, and the account closes."""

import dataclasses
import random

import zstandard

from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.document_files import FILE_NAME, DocumentWriter
from jaxgpt.corpus.documents.partition import gather_partitions
from jaxgpt.corpus.execution.tasks import TaskResult
from jaxgpt.corpus.stages.documents import written_partitions
from jaxgpt.corpus.stages.filter import apply_steps
from jaxgpt.corpus.stats.counts import DocumentCounts
from jaxgpt.corpus.text.batch import Judged, TextBatch


@dataclasses.dataclass(frozen=True)
class Without:
    """Takes a word out of texts."""

    word: str
    stage: str = "edit"

    def __call__(self, batch: TextBatch) -> Judged:
        texts = [text.replace(self.word, "") for text in batch.texts]
        num = sum(text.count(self.word) for text in batch.texts)
        return Judged(reasons=[None] * len(texts), texts=texts, counts={self.word: num})


@dataclasses.dataclass(frozen=True)
class Reject:
    """Rejects texts with a word; counts words, which a later step may be handed on."""

    word: str
    stage: str = "gate"

    def __call__(self, batch: TextBatch) -> Judged:
        assert batch.words.counts_D.tolist() == [len(text.split()) for text in batch.texts]
        return Judged(reasons=[f"has_{self.word}" if self.word in t else None for t in batch.texts])


@dataclasses.dataclass(frozen=True)
class Config:
    steps: tuple
    files_read: tuple[str, ...] = ()

    def build(self):
        return self.steps


def test_documents_pass_all_steps_in_order_and_nothing_is_lost(tmp_path):
    chooser = random.Random(0)
    texts = [" ".join(chooser.choices(["a", "bb", "ccc", "\u4e16"], k=5)) for _ in range(300)]
    texts += ["ccc", "bb ccc"]
    (tmp_path / "read").mkdir()
    with DocumentWriter(tmp_path / "read", 1, 0) as writer:
        for number, text in enumerate(texts):
            location = f"f:{number}"
            document = Document(id=location, text=text, location=location, source=f"s{number % 3}")
            writer.write(document, len(text.encode()))
    path = tmp_path / "read" / FILE_NAME
    (partition,) = gather_partitions([(path, writer.batches)], 1)
    (tmp_path / "out").mkdir()
    configs = [Config((Reject("bb"), Without("ccc"))), Config((Reject("a"),))]
    result = apply_steps(tmp_path / "out", lambda amount: None, partition, configs)

    expected, reasons = {}, {}
    for number, text in enumerate(texts):
        location = f"f:{number}"
        edited = text.replace("ccc", "")
        if "bb" in text:
            reasons[location] = "has_bb"
        elif not edited.strip():
            reasons[location] = "empty_after_edits"
        elif "a" in edited:
            reasons[location] = "has_a"
        else:
            expected[location] = edited
    done = TaskResult(folder=tmp_path / "out", key="", result=result)
    (left,) = written_partitions([done], 1)
    rows = [row for batch in left.batches() for row in batch.to_pylist()]
    assert {row["location"]: row["text"] for row in rows} == expected
    assert len(expected) > 1
    assert len(set(reasons.values())) == 3
    assert all(row["num_bytes"] == len(row["text"].encode()) for row in rows)
    with zstandard.open(tmp_path / "out" / "removed.jsonl.zst", "rb") as file:
        removed = file.read().decode().splitlines()
    assert len(removed) == len(reasons)
    tally = DocumentCounts.from_json(result["counts"])
    assert tally.dropped.total() == len(reasons) == -tally.num_kept
    for reason in set(reasons.values()):
        assert tally.dropped[reason] == list(reasons.values()).count(reason)
    # What is gone, by reason or by an edit, is what came in and did not come out.
    num_bytes = sum(len(text.encode()) for text in texts) - sum(row["num_bytes"] for row in rows)
    assert tally.dropped_bytes.total() + tally.edited_bytes.total() == num_bytes
    assert tally.kept_bytes == -num_bytes
    num_words = sum(text.count("ccc") for text in texts if "bb" not in text)
    assert result["steps"]["edit"] == {"ccc": num_words}
