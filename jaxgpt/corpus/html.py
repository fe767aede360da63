"""The text of a web page, without menus, advertisements and markup.

The finding of a page's main text is trafilatura's (Barbaresi 2021, ACL demo).
"""

import logging
import os
import re
from typing import Literal

from jaxgpt.corpus.streams import DECODERS

HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
Policy = Literal["files", "records", "keep"]

_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
# How a page, or a piece of one, begins; some come with a block of metadata before it.
_FRONT_MATTER = re.compile(r"\s*---\n(?:(?!---\n).*\n){1,100}---\n")
_PAGE = re.compile(
    r"\s*<(?:!doctype|html|head|body|main|article|section|div|table|ul|ol|dl|p|h[1-6])\b",
    re.IGNORECASE,
)


def is_page(path: str, text: str, policy: Policy) -> bool:
    """Whether a document is a web page whose text is to be extracted.

    Args:
        path: of the file it comes from.
        policy: of `SourcesConfig.html`.
    """
    if policy == "keep":
        return False
    stem, suffix = os.path.splitext(path.lower())
    if suffix in DECODERS:
        suffix = os.path.splitext(stem)[1]
    if suffix in HTML_SUFFIXES:
        return _TAG.search(text) is not None
    return policy == "records" and _PAGE.match(_without_front_matter(text)) is not None


def extract_text(page: str) -> str:
    """The main text of a page, paragraphs on lines of their own; "" where there is none."""
    import trafilatura

    page = _without_front_matter(page)

    # It warns of every page without text; what becomes of those is the caller's to say.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    text = trafilatura.extract(
        page, favor_precision=True, include_comments=False, deduplicate=False
    )
    if not text:
        # What it deems too short for an article is all there is.
        _, text, _ = trafilatura.baseline(page)
    return text.strip()


def _without_front_matter(page: str) -> str:
    """The page behind a block between two lines ---, as site generators have it."""
    found = _FRONT_MATTER.match(page)
    return page[found.end() :] if found else page
