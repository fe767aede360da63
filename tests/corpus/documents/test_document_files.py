"""Document files: what is written comes back, each document in the partition of its hash."""

import itertools
import pickle
import random

import numpy as np
import pytest

from jaxgpt.corpus.documents import document_files
from jaxgpt.corpus.documents.content_hash import content_hash
from jaxgpt.corpus.documents.document import Document
from jaxgpt.corpus.documents.document_files import FILE_NAME, SCHEMA, DocumentWriter, hash_rows
from jaxgpt.corpus.documents.partition import KEPT_NAME, gather_partitions


def documents(number):
    return [
        Document(id=f"id {i}", text=f"text {i} é\u4e16\U0001f30d", location=f"f:{i}", source="s")
        for i in range(number)
    ]


def write(folder, given, num_partitions, seed=0):
    folder.mkdir()
    with DocumentWriter(folder, num_partitions, seed) as writer:
        for document in given:
            writer.write(document, len(document.text.encode()))
    return folder / FILE_NAME, writer.batches


@pytest.mark.parametrize("num_partitions", [1, 7])
def test_every_document_comes_back_once_in_order_of_partitions(
    tmp_path, monkeypatch, num_partitions
):
    monkeypatch.setattr(document_files, "_BATCH_BYTES", 300 + 15 * document_files.DOCUMENT_BYTES)
    given = documents(500)
    written = [write(tmp_path / "0", given[:200], num_partitions)]
    written.append(write(tmp_path / "1", given[200:], num_partitions))
    found, orders = {}, []
    partitions = gather_partitions(written, num_partitions)
    for partition in partitions:
        rows = [row for batch in partition.batches() for row in batch.to_pylist()]
        assert partition.num_bytes == sum(row["num_bytes"] for row in rows)
        orders.append([row["order"] for row in rows])
        found |= {row["id"]: row for row in rows}
    assert sorted(found) == sorted(document.id for document in given)
    for document in given:
        row = found[document.id]
        assert (row["text"], row["location"]) == (document.text, document.location)
        assert row["hash"] == content_hash(document.text)
    # Partitions hold ranges, so that sorting each sorts all.
    for lower, upper in itertools.pairwise(orders):
        assert max(lower) < min(upper)


def test_the_place_of_a_document_follows_content_and_seed(tmp_path):
    def order(name, seed):
        (partition,) = gather_partitions([write(tmp_path / name, documents(3), 1, seed)], 1)
        (batch,) = partition.batches(("order",))
        return batch.column(0).to_pylist()

    assert order("a", 1) == order("b", 1)
    assert order("c", 2) != order("d", 1)


def test_columns_can_be_read_alone(tmp_path):
    (partition,) = gather_partitions([write(tmp_path / "0", documents(5), 1)], 1)
    (batch,) = partition.batches(("hash", "id"))
    assert batch.schema.names == ["hash", "id"]
    assert SCHEMA.names[1] == "hash"
    hashes = [bytes(row) for row in hash_rows(batch.slice(2))]
    assert hashes == batch.column("hash").to_pylist()[2:]


def test_removed_rows_are_gone_stage_after_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(document_files, "_BATCH_BYTES", 100)
    (partition,) = gather_partitions([write(tmp_path / "0", documents(40), 1)], 1)
    ids = partition.table(("id",))["id"].to_pylist()
    chooser = random.Random(0)
    for stage in range(3):
        stays = [chooser.random() < 0.7 for _ in ids]
        folder = tmp_path / f"stage {stage}"
        folder.mkdir()
        np.save(folder / KEPT_NAME, np.array(stays))
        partition = pickle.loads(pickle.dumps(partition.without(folder)))
        ids = [own_id for own_id, stay in zip(ids, stays, strict=True) if stay]
        assert partition.table(("id",))["id"].to_pylist() == ids
    assert 5 < len(ids) < 25


def test_a_batch_of_many_short_documents_is_bounded_by_their_number(tmp_path):
    _, batches = write(tmp_path / "0", documents(10_000), 2)
    assert max(batch.num_rows for batch in batches) <= 4096
    assert sum(batch.num_rows for batch in batches) == 10_000
