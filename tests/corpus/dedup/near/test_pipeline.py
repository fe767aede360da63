"""Near duplicates, from stored documents to what is left: planted edits are found, and no
document goes without one that stays and is as similar as the threshold says."""

import io
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard

from jaxgpt.corpus.dedup.near import join, pipeline
from jaxgpt.corpus.dedup.near.apply import NEAR_DUPLICATE, find_depleted
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.lsh import candidate_probability
from jaxgpt.corpus.dedup.near.pipeline import NearDuplicates
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.execution.processes import ProcessExecutor
from jaxgpt.corpus.stats.counts import DocumentCounts, SourceCounts
from jaxgpt.corpus.stats.drop_log import REMOVED_NAME
from tests.corpus.dedup.near.planted import (
    edit_words,
    jaccard,
    make_documents,
    natural_text,
    run,
    shingle_sets,
    store,
)


def planted_texts(seed: int = 0, num_pairs: int = 40) -> list[str]:
    """Natural texts, and edits of some of them at 1, 5, 10 and 20 % of the words."""
    rng = random.Random(seed)
    natural = [natural_text(rng, rng.randint(150, 400)) for _ in range(4 * num_pairs + 40)]
    edited = [
        edit_words(natural[number * num_pairs + place], share, rng)
        for number, share in enumerate((0.01, 0.05, 0.1, 0.2))
        for place in range(num_pairs)
    ]
    # Where no word happened to be edited it is an exact duplicate, and gone before.
    return list(dict.fromkeys(natural + edited))


def removed_lines(found: NearDuplicates) -> dict[str, dict]:
    lines = {}
    for done in found.results:
        raw = (done.folder / REMOVED_NAME).read_bytes()
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                record = json.loads(line)
                assert record["id"] not in lines
                lines[record["id"]] = record
    return lines


def kept_ids(partitions: list[Partition], found: NearDuplicates) -> set[str]:
    left = [
        partition.without(done.folder).table(("id",))["id"].to_pylist()
        for partition, done in zip(partitions, found.results, strict=True)
    ]
    return set(itertools.chain(*left))


def check(texts: list[str], partitions: list[Partition], found: NearDuplicates) -> dict[str, dict]:
    """What must hold of every removal; returns the removed documents by id."""
    removed, kept = removed_lines(found), kept_ids(partitions, found)
    ids = {f"id-{number}" for number in range(len(texts))}
    assert removed.keys() | kept == ids
    assert not removed.keys() & kept
    sets = dict(zip((f"id-{n}" for n in range(len(texts))), shingle_sets(texts), strict=True))
    for id, line in removed.items():
        assert line["kept_id"] in kept
        assert line["stage"] == "near_duplicates"
        similarity = jaccard(sets[id], sets[line["kept_id"]])
        assert line["similarity"] == similarity >= 0.7
    tally = DocumentCounts(num_read=len(texts), num_kept=len(texts))
    for done in found.results:
        tally.merge(DocumentCounts.from_json(done.result["counts"]))
    assert tally.num_kept == len(kept)
    assert tally.dropped[NEAR_DUPLICATE] == len(removed)
    return removed


def test_planted_edits_are_found_and_nothing_else_goes(tmp_path: Path):
    texts = planted_texts()
    partitions = store(tmp_path / "documents", make_documents(texts), 3)
    found = run(tmp_path, partitions)
    removed = check(texts, partitions, found)
    sets = shingle_sets(texts)
    num_similar = 0
    for one, other in itertools.combinations(range(len(texts)), 2):
        if sets[one].isdisjoint(sets[other]):
            continue
        similarity = jaccard(sets[one], sets[other])
        if similarity >= 0.85:
            assert candidate_probability(0.85, 25, 10) > 0.99
            num_similar += 1
            assert {f"id-{one}", f"id-{other}"} & removed.keys()
    assert num_similar >= 30
    assert found.counts["num_clusters"] >= num_similar
    assert found.counts["num_cut"] == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_neither_order_nor_partitions_nor_tasks_matter(tmp_path, monkeypatch, seed):
    texts = planted_texts(seed, 15)
    documents = make_documents(texts)
    first = removed_lines(run(tmp_path / "a", store(tmp_path / "a" / "documents", documents, 1)))
    random.Random(seed).shuffle(documents)
    monkeypatch.setattr(pipeline, "_RANGE_KEYS", 500)
    monkeypatch.setattr(join, "_GROUP_SHINGLES", 3000)
    found = run(tmp_path / "b", store(tmp_path / "b" / "documents", documents, 5))
    assert len(list((tmp_path / "b" / "work" / "join_keys").iterdir())) > 4
    assert len(list((tmp_path / "b" / "work" / "verify_group").iterdir())) > 2
    assert len(first) > 8
    assert removed_lines(found) == first


def test_processes_find_the_same(tmp_path: Path):
    partitions = store(tmp_path / "documents", make_documents(planted_texts(3, 10)), 3)
    executor = ProcessExecutor(2)
    try:
        found = run(tmp_path / "two", partitions, executor=executor)
    finally:
        executor.close()
    alone = run(tmp_path / "one", partitions)
    assert [done.key for done in found.results] == [done.key for done in alone.results]
    for one, other in zip(found.results, alone.results, strict=True):
        for path in one.folder.iterdir():
            assert path.read_bytes() == (other.folder / path.name).read_bytes()
    assert found.examples == alone.examples


def test_a_cluster_of_n_loses_at_most_all_but_one(tmp_path: Path):
    rng = random.Random(0)
    text = natural_text(rng, 300)
    # A chain: each is similar to the next, the last not at all to the first.
    words = text.split(" ")
    texts = [" ".join([*words[10 * n :], *(f"x{m}" for m in range(10 * n))]) for n in range(30)]
    copies = [f"{natural_text(rng, 1)} {text[::-1]}" for _ in range(20)]
    partitions = store(tmp_path / "documents", make_documents(texts + copies), 2)
    found = run(tmp_path, partitions)
    removed = check(texts + copies, partitions, found)
    chain = [id for id in removed if int(id.split("-")[1]) < len(texts)]
    assert 10 < len(chain) < 29
    assert len(removed) - len(chain) == 19
    largest = found.examples[0]
    assert largest["num_removed"] == 19
    assert len(largest["removed"]) == 4


def test_what_has_no_words_and_what_is_short(tmp_path: Path):
    texts = [
        "?!",
        "...",
        "--- ---",
        "one",
        "“One”",
        '"One"',
        "two words",
        "two  words\n",
        "Two, words!",
    ]
    partitions = store(tmp_path / "documents", make_documents(texts), 2)
    removed = check([text or "?" for text in texts], partitions, run(tmp_path, partitions))
    pairs = {frozenset((id, line["kept_id"])) for id, line in removed.items()}
    assert pairs == {frozenset(("id-4", "id-5")), frozenset(("id-6", "id-7"))}


def test_a_corpus_without_documents(tmp_path: Path):
    partitions = store(tmp_path / "documents", [], 2)
    found = run(tmp_path, partitions)
    assert removed_lines(found) == {}
    assert [np.load(done.folder / "kept.npy").tolist() for done in found.results] == [[], []]


def test_documents_of_an_older_dataset_stay_and_are_what_others_repeat(tmp_path: Path):
    rng = random.Random(5)
    texts = [natural_text(rng, 300) for _ in range(12)]
    longer = [f"{text} and one word more" for text in texts]
    documents = make_documents(texts + longer)
    # The older ones are shorter, and two of them are like each other.
    older = [*documents[:10], *make_documents([texts[0] + " end"])]
    old = store(tmp_path / "old", older, 2)
    new = store(tmp_path / "new", documents[12:], 3)
    found = run(tmp_path, new, older=old)
    assert len(found.results) == 3
    removed = removed_lines(found)
    assert {int(id[3:]) for id in removed} == set(range(12, 22))
    assert {line["kept_id"] for line in removed.values()} == {f"id-{n}" for n in range(10)}
    assert kept_ids(new, found) == {"id-22", "id-23"}


def test_the_threshold_decides(tmp_path: Path):
    partitions = store(tmp_path / "documents", make_documents(planted_texts(7, 15)), 2)
    numbers = []
    for threshold in (0.5, 0.7, 0.9, 1.0):
        config = NearDuplicatesConfig(threshold=threshold, bands="32x8")
        lines = removed_lines(run(tmp_path, partitions, config)).values()
        assert all(line["similarity"] >= threshold for line in lines)
        numbers.append(len(lines))
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[2] > 0


def test_sources_that_lose_more_than_half_are_named():
    tally = DocumentCounts()
    for name, num_read, num_empty, num_near in (
        ("most", 30, 5, 13),
        ("half", 30, 0, 15),
        ("few", 19, 0, 18),
        ("others", 100, 90, 0),
    ):
        source = SourceCounts(read=num_read)
        source.dropped.update({"empty": num_empty, NEAR_DUPLICATE: num_near})
        tally.sources[name] = source
    assert find_depleted(tally) == ["most loses 13 of 25 documents as near duplicates"]
