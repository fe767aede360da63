"""Document files: what is written comes back, each document in the partition of its hash."""

import itertools

import pytest

from jaxgpt.corpus import parts
from jaxgpt.corpus.document import Document
from jaxgpt.corpus.exact_duplicates import content_hash
from jaxgpt.corpus.parts import SCHEMA, DocumentWriter, Part, hash_rows, read_partition


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
    return Part(folder, writer.batches)


@pytest.mark.parametrize("num_partitions", [1, 7])
def test_every_document_comes_back_once_in_order_of_partitions(
    tmp_path, monkeypatch, num_partitions
):
    monkeypatch.setattr(parts, "_BATCH_BYTES", 300)
    given = documents(500)
    written = [write(tmp_path / "0", given[:200], num_partitions)]
    written.append(write(tmp_path / "1", given[200:], num_partitions))
    found, orders = {}, []
    for partition in range(num_partitions):
        rows = [row for batch in read_partition(written, partition) for row in batch.to_pylist()]
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
        part = write(tmp_path / name, documents(3), 1, seed)
        (batch,) = read_partition([part], 0, ("order",))
        return batch.column(0).to_pylist()

    assert order("a", 1) == order("b", 1)
    assert order("c", 2) != order("d", 1)


def test_columns_can_be_read_alone(tmp_path):
    part = write(tmp_path / "0", documents(5), 1)
    (batch,) = read_partition([part], 0, ("hash", "id"))
    assert batch.schema.names == ["hash", "id"]
    assert SCHEMA.names[1] == "hash"
    hashes = [bytes(row) for row in hash_rows(batch.slice(2))]
    assert hashes == batch.column("hash").to_pylist()[2:]
