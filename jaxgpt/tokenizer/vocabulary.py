"""`Vocabulary`: an opened tokenizer file, of either kind."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Encoder(Protocol):
    """Text to ids; raises UnicodeEncodeError where a text has a lone surrogate."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ...

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, int32, and int64 offsets [number of texts + 1]."""
        ...


class Vocabulary(NamedTuple):
    """Content of a tokenizer file.

    Attributes:
        kind: algorithm that cuts text.
        pieces: bytes of text that each id stands for; none for a control token.
        special_ids: control tokens by name.
        fingerprint: SHA-256 of what decides ids.
        encoder: of text without control tokens.
        file_name: name of the file in a folder.
    """

    kind: str
    pieces: list[bytes]
    special_ids: dict[str, int]
    fingerprint: str
    encoder: Encoder
    file_name: str
