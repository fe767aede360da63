"""Privacy: e-mail addresses and public IP addresses are replaced by constants.

The replacement depends only on the configuration: the same text becomes the same text everywhere.
Patterns are as FineWeb has them (datatrove's PIIFormatter), made to run in linear time, with IPv6
added.
"""

import dataclasses
import ipaddress
import re

from jaxgpt.config import configclass
from jaxgpt.corpus.text.batch import Judged, Step, TextBatch
from jaxgpt.corpus.text.scripts import UNSPACED_BLOCKS

# Scripts without spaces between words: there an address has no delimiter but its own letters.
_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_BLOCKS)
_SPACED_LETTER = rf"[^\W\d_{_UNSPACED}]"
# All that may belong to a local part is read at once (++), and never again from its middle: the
# time stays linear in the length of the text. `_split_local` finds where the address begins.
# Labels of a host are at most 63 characters (RFC 1035). A version (`1.2.3`) is no host, nor is the
# scale of a picture (`logo@2x.png`).
_EMAIL = re.compile(
    r"(?<![\w.%+'-])(?P<local>[\w.%+'-]++)@(?!v?[0-9]+(?:\.[0-9]|x\.))"
    r"(?P<host>(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    rf"(?:{_SPACED_LETTER}{{2,63}}(?!{_SPACED_LETTER}|\d)|[{_UNSPACED}]{{2,63}}(?![^\W_])))"
)
# What ends before an address: a quotation mark, unless it is within a name; an ellipsis, two
# hyphens, an escape of URLs, a letter of a script without spaces before one of another script.
_BEFORE_LOCAL = re.compile(
    r".*(?:(?<!\w)[bfru]{0,2}'|'(?!\w)|\.\.|--|%(?:2[0-9A-Ca-c]|3[A-Ea-e])|"
    rf"[{_UNSPACED}](?=[^{_UNSPACED}]))"
)
# RFC 5321.
_MAX_LOCAL_CHARACTERS = 64
_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?\w)")
# Only 2000::/3 is given out to hosts; that also keeps code such as `a::b` from being an address.
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
# Most text has nothing of the kind; these are found much faster than it takes to look for more.
_MAYBE_IPV4 = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_MAYBE_IPV6 = re.compile(r":[0-9A-Fa-f]{0,4}:")


@configclass
class PrivacyConfig:
    """Replacement of addresses, to protect people; None keeps them."""

    email_replacement: str | None = None
    """Text in place of every e-mail address, such as email@example.com."""
    ip_replacement: str | None = None
    """Text in place of every public IP address, such as 192.0.2.1. Version numbers of four parts,
    such as 1.2.3.4, are replaced, too."""

    @property
    def files_read(self) -> tuple[str, ...]:
        """None."""
        return ()

    def build(self) -> tuple[Step, ...]:
        """Return one step, or none if there is nothing to replace."""
        if self.email_replacement is None and self.ip_replacement is None:
            return ()
        return (Privacy(self),)


@dataclasses.dataclass(frozen=True)
class Privacy:
    """Replaces addresses and rejects nothing."""

    config: PrivacyConfig
    stage: str = "privacy"

    def __call__(self, batch: TextBatch) -> Judged:
        """Edit every document."""
        counts = {"emails": 0, "ips": 0}
        texts = []
        for text in batch.texts:
            if self.config.email_replacement is not None:
                text, num = replace_emails(text, self.config.email_replacement)
                counts["emails"] += num
            if self.config.ip_replacement is not None:
                text, num = replace_public_ips(text, self.config.ip_replacement)
                counts["ips"] += num
            texts.append(text)
        counts = {kind: count for kind, count in counts.items() if count}
        return Judged(reasons=[None] * len(texts), texts=texts if counts else None, counts=counts)


def replace_emails(text: str, replacement: str) -> tuple[str, int]:
    """Return the text without e-mail addresses, and their number."""
    if "@" not in text:
        return text, 0
    num_replaced = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal num_replaced
        before, local = _split_local(match["local"])
        if not 0 < len(local) <= _MAX_LOCAL_CHARACTERS:
            return match.group()
        num_replaced += 1
        return before + replacement

    return _EMAIL.sub(replace, text), num_replaced


def _split_local(run: str) -> tuple[str, str]:
    """Split the text before an @ into delimiters and the local part of an address."""
    found = _BEFORE_LOCAL.match(run)
    start = found.end() if found else 0
    local = run[start:].lstrip(".%+'-_")
    return run[: len(run) - len(local)], local


def replace_public_ips(text: str, replacement: str) -> tuple[str, int]:
    """Return the text without public IPv4 and IPv6 addresses, and their number.

    Python's `ipaddress` tells which are public. Addresses of private networks, of loopback and
    of documentation stay, and so does 300.1.2.3, which is no address.
    """
    num_replaced = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal num_replaced
        address = match.group()
        # `address 2001:db8::1: unreachable` ends in a colon that is not part of it.
        rest = ":" if address.endswith(":") and not address.endswith("::") else ""
        if not _is_public(address.removesuffix(":") if rest else address):
            return address
        num_replaced += 1
        return replacement + rest

    for is_possible, pattern in ((_MAYBE_IPV4, _IPV4), (_MAYBE_IPV6, _IPV6)):
        if is_possible.search(text):
            text = pattern.sub(replace, text)
    return text, num_replaced


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
