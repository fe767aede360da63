"""The text of a web page, without menus, advertisements and markup.

The finding of a page's main text is trafilatura's (Barbaresi 2021, ACL demo).
"""

import logging
import os
import re
from typing import Literal

from jaxgpt.corpus.readers.streams import DECODERS
from jaxgpt.names.packages import import_package, install_advice

HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
Policy = Literal["files", "records", "keep"]

_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
# How a page, or a piece of one, begins; some come with a block of metadata before it.
_FRONT_MATTER = re.compile(r"\s*---\n(?:(?!---\n).*\n){1,100}---\n")
_PAGE = re.compile(
    r"\s*<(?:!doctype|html|head|body|main|article|section|div|table|ul|ol|dl|p|h[1-6])\b",
    re.IGNORECASE,
)
# As browsers and libxml2 find them: a quote counts only where a value begins, and nothing in a
# comment, script or style sheet is a tag. Nothing backtracks: the time is linear in the length.
_ATTRIBUTE = r"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+"""
_COMMENT = r"<!--(?:-?>|.*?(?:--!?>|\Z))"
_TAG = re.compile(
    rf"{_COMMENT}|(?P<end></p(?=[\s/>]))|<(?P<name>(?P<raw>script|style)(?=[\s/>])|[a-z][^\s/>]*+)"
    rf"(?P<attributes>(?:{_ATTRIBUTE})*+)(?(raw).*?(?:</(?P=raw)|\Z))",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
# The parser compares every attribute of a tag with all before it.
_MAX_ATTRIBUTES = 1000
# The extractor takes the elements out of a paragraph, and then looks from each piece of its text
# back at all pieces before it.
_MAX_PARAGRAPH_ELEMENTS = 4000
# They end a paragraph, as libxml2 has it, or a run of its pieces.
_PARAGRAPH_END = re.compile(
    "address|article|aside|blockquote|body|br|caption|center|col|colgroup|dd|dir|div|dl|dt|fieldset"
    "|form|h[1-6]|head|hr|li|menu|ol|p|pre|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
# Beyond this, the main extractor does not consult the others, one of which (jusText) takes time
# that grows with the square of the number of paragraphs.
_MAX_COMPARED_ELEMENTS = 20_000


def is_page(path: str, text: str, policy: Policy) -> bool:
    """Return whether a document is a web page whose text is to be extracted.

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


def find_excess(page: str, max_elements: int) -> str | None:
    """Return how a page exceeds what can be extracted in bounded time; None if it does not. It is a
    function of the page alone, because a time limit would drop different pages on each machine.
    """
    num_elements = num_in_paragraph = 0
    is_paragraph = False
    for tag in _TAG.finditer(page):
        attributes = tag["attributes"]
        if attributes is None:
            # The end of a paragraph, or a comment.
            is_paragraph &= tag["end"] is None
            continue
        num_elements += 1
        num_in_paragraph += 1
        if _PARAGRAPH_END.fullmatch(name := tag["name"].lower()):
            num_in_paragraph = 0
            is_paragraph = name == "p" or (name == "br" and is_paragraph)
        elif is_paragraph and num_in_paragraph > _MAX_PARAGRAPH_ELEMENTS:
            return f"a paragraph has more than {_MAX_PARAGRAPH_ELEMENTS} elements without a break"
        if len(attributes) > 2 * _MAX_ATTRIBUTES:
            num_attributes = sum(1 for _ in _ATTRIBUTES.finditer(attributes))
            if num_attributes > _MAX_ATTRIBUTES:
                return f"a tag has {num_attributes} attributes; at most {_MAX_ATTRIBUTES} are read"
    if num_elements > max_elements:
        return f"it has {num_elements} elements; sources.max_page_elements = {max_elements}"
    return None


def extract_text(page: str) -> str:
    """Return the main text of a page, paragraphs on lines of their own; "" where there is none."""
    advice = f"{install_advice()}, or keep pages as they are: --sources.html keep"
    trafilatura = import_package("trafilatura", "the text of a web page", advice)
    page = _without_front_matter(page)

    # It warns of every page without text; what becomes of those is the caller's to say.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    text = trafilatura.extract(
        page,
        fast=find_excess(page, _MAX_COMPARED_ELEMENTS) is not None,
        favor_precision=True,
        include_comments=False,
        deduplicate=False,
    )
    if not text:
        # What it deems too short for an article is all there is.
        _, text, _ = trafilatura.baseline(page)
    return text.strip()


def _without_front_matter(page: str) -> str:
    """Return the page after a block between two lines ---, as site generators write it."""
    found = _FRONT_MATTER.match(page)
    return page[found.end() :] if found else page
