"""The stage that removes exact duplicates."""

from jaxgpt.corpus.dedup.exact import deduplicate_partition
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.stages.documents import Documents, ExistingDocuments


def remove_duplicates(
    runner: TaskRunner, documents: Documents, existing: ExistingDocuments | None = None
) -> Documents:
    """Keep one of each text, and none that `existing` has."""
    if existing is None:
        tasks = documents.tasks(lambda each: (each,))
    else:
        tasks = documents.tasks(lambda each: (each, existing.partitions[each.number]), existing.key)
    return documents.masked_by(runner.run("removing duplicates", deduplicate_partition, tasks))
