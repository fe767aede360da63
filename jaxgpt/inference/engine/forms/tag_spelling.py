"""Spellings of a tag, such as the one that begins a call, in the tokens of a vocabulary."""

import functools
from collections.abc import Iterator

from jaxgpt.tokenizer.tokenizer import Tokenizer


class TagSpelling:
    """A tag in the tokens of a vocabulary.

    A text is known here by `begun`: the number of bytes of the tag that it ends with.

    Args:
        tokenizer: the model's.
        tag: the text of the tag.
    """

    def __init__(self, tokenizer: Tokenizer, tag: str) -> None:
        self._tag = tag.encode()
        self._pieces = [tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size)]
        self._encode = tokenizer.encode
        self._completing = functools.cache(self._find_completing)

    def read(self, begun: int, token: int) -> tuple[int, bytes | None]:
        """Return what a token makes of `begun`, and the bytes behind the tag once it is whole."""
        text = self._tag[:begun] + self._pieces[token]
        before, tag, rest = text.partition(self._tag)
        return (0, rest) if tag else (self._end(before), None)

    def completing(self, begun: int) -> dict[int, tuple[int, ...] | None]:
        """Return the tokens that complete the tag, with ids of the text behind it in each.

        None in the place of ids that no text has: the token ends within a character.
        """
        return self._completing(begun)

    def steps(self, begun: int) -> int:
        """Return the least number of tokens that complete the tag; of them the last may."""
        return self._steps[begun]

    def ids(self, rest: bytes) -> tuple[int, ...] | None:
        """Return ids that spell some bytes, None if they are no text."""
        try:
            return tuple(self._encode(rest.decode()))
        except UnicodeDecodeError:
            return None

    def _find_completing(self, begun: int) -> dict[int, tuple[int, ...] | None]:
        read = ((id, self.read(begun, id)[1]) for id in self._parts)
        return {id: self.ids(rest) for id, rest in read if rest is not None}

    def _end(self, text: bytes) -> int:
        """Return the number of bytes of the tag that a text without it ends with."""
        sizes = range(min(len(self._tag) - 1, len(text)), 0, -1)
        return next((size for size in sizes if text.endswith(self._tag[:size])), 0)

    @functools.cached_property
    def _parts(self) -> list[int]:
        """Return the tokens that may be part of the tag: they begin, continue or complete it."""
        first, last = self._tag[:1], self._tag[-1:]
        return [
            id
            for id, piece in enumerate(self._pieces)
            if piece and (first in piece or last in piece or piece in self._tag)
        ]

    @functools.cached_property
    def _steps(self) -> list[int]:
        whole = len(self._tag)
        following = [set(self._following(begun)) for begun in range(whole)]
        steps = [whole] * whole + [0]
        # The tag's own bytes may be no tokens; then nothing completes it, and the number is theirs.
        for _ in range(whole):
            for begun in range(whole):
                steps[begun] = min([steps[begun], *(1 + steps[each] for each in following[begun])])
        return steps[:whole]

    def _following(self, begun: int) -> Iterator[int]:
        """Yield what tokens make of `begun`; the length of the tag where it is whole."""
        for id in self._parts:
            after, rest = self.read(begun, id)
            yield after if rest is None else len(self._tag)
