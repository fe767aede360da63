"""The order of the stages that find near duplicates in a corpus.

sign_partition      a partition -> signatures, sorted band keys
join_keys           a range of keys of all partitions -> edges
connect_documents   all edges -> candidate clusters, in groups
collect_members     a partition -> shingles and passages of its documents in clusters
verify_group        a group of clusters -> which documents go, and for which
settle_partition    a partition -> which of its documents are kept
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from jaxgpt.corpus.dedup.near.apply import settle_partition
from jaxgpt.corpus.dedup.near.collect import collect_members
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.join import connect_documents, join_keys
from jaxgpt.corpus.dedup.near.sign import SignedPartition, sign_partition
from jaxgpt.corpus.dedup.near.verify import verify_group
from jaxgpt.corpus.documents.partition import Partition
from jaxgpt.corpus.execution.tasks import Task, TaskResult, TaskRunner, combined_key
from jaxgpt.corpus.stats.near_duplicate_examples import merge_examples

logger = logging.getLogger(__name__)

# Band keys that are joined in one task: about 250 MB while they are sorted.
_RANGE_KEYS = 1 << 22
_KEY_BYTES = 12
_EDGE_BYTES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Result of the search for near duplicates.

    Attributes:
        results: for each partition; its folder has kept.npy and removed.jsonl.zst, its result is
            that of `stage_result`.
        examples: for the report, JSON: families of a kept document and some removed for it.
        counts: for the report: candidates, comparisons, and pairs that were not compared.
    """

    results: list[TaskResult]
    examples: list[dict[str, Any]]
    counts: dict[str, int]


def find_near_duplicates(
    runner: TaskRunner,
    partitions: Sequence[Partition],
    config: NearDuplicatesConfig,
    key: str,
    older: Sequence[Partition] = (),
) -> NearDuplicates:
    """Find the documents that are near duplicates of another one that is kept.

    Args:
        key: hash of all that the partitions' content depends on.
        older: partitions of a dataset that exists already; their documents stay, and remove those
            that repeat them.
    """
    signed, key = _sign(runner, [*older, *partitions], config, key)
    num_keys = sum(done.result["num_keys"] for done in signed)
    numbered = _number([*older, *partitions], signed)
    num_fixed = numbered[len(older)].first if partitions else 0

    connected = _connect(runner, numbered, num_keys, key)
    tasks = _tasks(
        numbered, lambda each: (each, connected.folder, config.ngram), [connected.key, key]
    )
    collected = runner.run("collecting candidates", collect_members, tasks)
    verified = _verify(runner, numbered, collected, connected, num_fixed, config)
    folders = [done.folder for done in verified]
    tasks = _tasks(
        numbered[len(older) :], lambda each: (each, folders), [combined_key(verified), key]
    )
    settled = runner.run("removing near duplicates", settle_partition, tasks)
    return _report(connected, verified, settled)


def _sign(
    runner: TaskRunner, partitions: Sequence[Partition], config: NearDuplicatesConfig, key: str
) -> tuple[list[TaskResult], str]:
    tasks = [
        Task(
            name=f"{number:05d}",
            depends_on=[key, number, config.bands, config.ngram],
            arguments=(partition, config),
            num_bytes=partition.num_bytes,
        )
        for number, partition in enumerate(partitions)
    ]
    done = runner.run("signing", sign_partition, tasks)
    return done, combined_key(done)


def _number(partitions: Sequence[Partition], done: Sequence[TaskResult]) -> list[SignedPartition]:
    """Number the documents of all partitions consecutively."""
    numbered, first = [], 0
    for partition, signed in zip(partitions, done, strict=True):
        num = signed.result["num_documents"]
        numbered.append(
            SignedPartition(
                partition=partition, folder=signed.folder, first=first, num_documents=num
            )
        )
        first += num
    return numbered


def _connect(
    runner: TaskRunner, signed: Sequence[SignedPartition], num_keys: int, key: str
) -> TaskResult:
    """Return the candidate clusters; the number of key ranges depends on the number of keys."""
    num_ranges = max(1, -(-num_keys // _RANGE_KEYS))
    tasks = [
        Task(
            name=f"{number:05d}",
            depends_on=[key, number, num_ranges],
            arguments=(signed, number, num_ranges),
            num_bytes=num_keys * _KEY_BYTES // num_ranges,
        )
        for number in range(num_ranges)
    ]
    joined = runner.run("joining band keys", join_keys, tasks)
    task = Task(
        name="clusters",
        depends_on=[combined_key(joined), key],
        arguments=(signed, [done.folder for done in joined]),
        num_bytes=sum(done.result["num_edges"] for done in joined) * _EDGE_BYTES,
    )
    return runner.run("finding clusters", connect_documents, [task])[0]


def _verify(
    runner: TaskRunner,
    signed: Sequence[SignedPartition],
    collected: Sequence[TaskResult],
    connected: TaskResult,
    num_fixed: int,
    config: NearDuplicatesConfig,
) -> list[TaskResult]:
    key = combined_key(collected)
    folders = [done.folder for done in collected]
    tasks = [
        Task(
            name=f"{group:05d}",
            depends_on=[key, group, num_fixed, config.threshold],
            arguments=(signed, folders, group, num_fixed, config),
            num_bytes=1,
        )
        for group in range(connected.result["num_groups"])
    ]
    return runner.run("comparing candidates", verify_group, tasks)


def _tasks(
    signed: Sequence[SignedPartition],
    arguments_of: Callable[[SignedPartition], tuple[Any, ...]],
    depends_on: Sequence[Any],
) -> list[Task]:
    """Return one task for each partition, identified by its first document's number."""
    return [
        Task(
            name=f"{number:05d}",
            depends_on=[number, each.first, *depends_on],
            arguments=arguments_of(each),
            num_bytes=each.partition.num_bytes,
        )
        for number, each in enumerate(signed)
    ]


def _report(
    connected: TaskResult, verified: Sequence[TaskResult], settled: list[TaskResult]
) -> NearDuplicates:
    counts = {
        "num_candidates": connected.result["num_documents"],
        "num_clusters": connected.result["num_clusters"],
        "largest_cluster": connected.result["largest_cluster"],
        "num_compared": sum(done.result["num_compared"] for done in verified),
        "num_differing": sum(done.result["num_differing"] for done in verified),
        "num_cut": sum(done.result["num_cut"] for done in verified),
    }
    if counts["num_cut"]:
        logger.warning(
            "%d pairs of documents share a band with very many others and were not compared",
            counts["num_cut"],
        )
    examples = [example for done in verified for example in done.result["examples"]]
    return NearDuplicates(results=settled, examples=merge_examples(examples), counts=counts)
