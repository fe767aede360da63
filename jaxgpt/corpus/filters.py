"""Filters: a filter looks at a repaired document and returns why it must go, or None.

Filters run in the order of the tuple; the first reason counts.
"""

from collections.abc import Callable
from typing import Literal

from jaxgpt.config import configclass
from jaxgpt.corpus.document import Document

Filter = Callable[[Document], str | None]


@configclass
class FiltersConfig:
    """Which documents are good enough."""

    profile: Literal["none"] = "none"
    """none: keep everything that holds text."""

    def build(self) -> tuple[Filter, ...]:
        """The filters, in order."""
        return (reject_empty,)


def reject_empty(document: Document) -> str | None:
    """Nothing but whitespace."""
    return None if document.text.strip() else "empty"
