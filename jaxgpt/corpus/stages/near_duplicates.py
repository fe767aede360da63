"""The stage that removes near duplicates; how they are found is in `dedup/near/`."""

import copy
import dataclasses
import logging

from jaxgpt.corpus.dedup.near.apply import find_depleted
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.pipeline import find_near_duplicates
from jaxgpt.corpus.execution.tasks import TaskRunner
from jaxgpt.corpus.stages.documents import Documents, ExistingDocuments

logger = logging.getLogger(__name__)


def remove_near_duplicates(
    runner: TaskRunner,
    documents: Documents,
    config: NearDuplicatesConfig,
    existing: ExistingDocuments | None = None,
) -> Documents:
    """Keep one of texts that are nearly the same, and none that is like one of `existing`."""
    if not config.enabled:
        return documents
    key, older = documents.key, ()
    if existing is not None:
        key, older = key + existing.key, existing.partitions
    found = find_near_duplicates(runner, documents.partitions, config, key, older)
    left = documents.masked_by(found.results)
    account = copy.deepcopy(left.account)
    account.count_near_duplicates(found.counts, found.examples)
    for sentence in find_depleted(account.tally):
        logger.warning("%s", sentence)
    return dataclasses.replace(left, account=account)
