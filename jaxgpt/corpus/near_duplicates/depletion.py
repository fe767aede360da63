"""The alarm: a source that loses most of its documents as near duplicates is worth a look."""

from jaxgpt.corpus.near_duplicates.settling import REASON
from jaxgpt.corpus.tally import Tally

_MIN_DOCUMENTS = 20
_SHARE = 0.5


def find_depleted(tally: Tally) -> list[str]:
    """A sentence for each source of many documents that lost more than half of them.

    Args:
        tally: of the stages up to the removal of near duplicates.
    """
    found = []
    for name, source in sorted(tally.sources.items()):
        num_removed = source.dropped[REASON]
        num_documents = source.read - source.dropped.total() + num_removed
        if num_documents >= _MIN_DOCUMENTS and num_removed > _SHARE * num_documents:
            found.append(
                f"{name} loses {num_removed} of {num_documents} documents as near duplicates"
            )
    return found
