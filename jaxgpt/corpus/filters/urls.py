"""Filter by URL: drop documents from hosts, or with words in their address, that a list forbids.
The user gives the lists as files with one entry per line; empty lines and lines that begin with #
are ignored.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from jaxgpt.config import configclass
from jaxgpt.corpus.text.batch import Judged, TextBatch
from jaxgpt.errors import UsageError

_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//")
_HOST_END = re.compile(r"[/?#\\]")
_PORT = re.compile(r":[0-9]*$")
_BETWEEN_WORDS = re.compile(r"[\W_]+")


@configclass
class UrlConfig:
    """Filter by URL. A document without a URL passes."""

    domain_blocklist: str | None = None
    """File of domains, one per line; documents of a domain or of any subdomain are dropped."""
    word_blocklist: str | None = None
    """File of words, one per line; documents with enough of them in their URL are dropped."""
    min_blocked_words: int = 1
    """Number of different blocked words from which on a URL is blocked."""

    def __post_init__(self) -> None:
        if self.min_blocked_words < 1:
            raise ValueError(f"min_blocked_words = {self.min_blocked_words}; it must be at least 1")

    @property
    def files_read(self) -> tuple[str, ...]:
        """Return the list files."""
        return tuple(path for path in (self.domain_blocklist, self.word_blocklist) if path)

    def build(self) -> "Urls":
        """Read the lists.

        Raises:
            UsageError: a list cannot be read.
        """
        return Urls(
            domains=_read(self.domain_blocklist, "domain-blocklist", host_of),
            words=_read(self.word_blocklist, "word-blocklist", str.lower),
            min_blocked_words=self.min_blocked_words,
        )


@dataclasses.dataclass(frozen=True)
class Urls:
    """Rejects documents by their URL.

    Attributes:
        domains: as `host_of` writes them.
        words: in lower case.
        min_blocked_words: as in `UrlConfig`.
    """

    domains: frozenset[str]
    words: frozenset[str]
    min_blocked_words: int
    stage: str = "url"

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge every document; none is edited."""
        return Judged(reasons=[self._judge(url) if url else None for url in batch.urls])

    def _judge(self, url: str) -> str | None:
        if self.domains and not self.domains.isdisjoint(_domains_of(url)):
            return "url_blocked_domain"
        if self.words and len(self.words & _words_of(url)) >= self.min_blocked_words:
            return "url_blocked_words"
        return None


def host_of(url: str) -> str:
    """Return the host of a URL, with or without its scheme, in one spelling.

    Lower case, international names in their ASCII form (punycode), without user, port, final dot.
    """
    rest = _SCHEME.sub("", url.strip().lower())
    host = _HOST_END.split(rest, maxsplit=1)[0].rpartition("@")[2]
    host = _PORT.sub("", host).strip(".")
    if not host.isascii():
        try:
            return host.encode("idna").decode()
        except UnicodeError:
            return host  # no valid name; equal only to itself
    return host


def _domains_of(url: str) -> list[str]:
    """Return the host and every domain that it lies in: a.b.org, b.org, org."""
    labels = host_of(url).split(".")
    return [".".join(labels[first:]) for first in range(len(labels))]


def _words_of(url: str) -> set[str]:
    return set(_BETWEEN_WORDS.split(unquote(url).lower()))


def _read(path: str | None, option: str, normalise: Callable[[str], str]) -> frozenset[str]:
    if path is None:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"--filters.url.{option} {path}: {reason}; it must be a text file, one entry a line"
        ) from None
    entries = (line.strip() for line in lines)
    return frozenset(normalise(entry) for entry in entries if entry and entry[0] != "#")
