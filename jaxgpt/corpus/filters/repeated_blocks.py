"""Lines and paragraphs that a document has more than once."""

from collections.abc import Sequence


def split_paragraphs(text: str) -> list[str]:
    """What two or more line ends separate."""
    parts = text.strip().split("\n\n")
    # Of three line ends the third is left at the beginning of a part.
    return list(filter(None, [part.lstrip("\n") for part in parts]))


def count_duplicates(blocks: Sequence[str]) -> tuple[int, int]:
    """How many blocks are equal to an earlier one, and the characters of those."""
    unique = set(blocks)
    num_duplicates = len(blocks) - len(unique)
    if not num_duplicates:
        return 0, 0
    return num_duplicates, sum(map(len, blocks)) - sum(map(len, unique))
