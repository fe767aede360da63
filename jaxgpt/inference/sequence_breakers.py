"""From texts that break a repetition, such as a line end, to the ids of one tokenizer."""

import functools

from jaxgpt.tokenizer.tokenizer import Tokenizer

_MOST_KEPT = 256
# Tokenizers of models that are in use; each one's vocabulary is held as a list.
_MOST_TOKENIZERS = 2


class SequenceBreakers:
    """Finds the ids in which a text occurs, and keeps those of recent texts.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = [tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size)]
        self._ids_of = functools.lru_cache(_MOST_KEPT)(self._find)

    def ids(self, texts: tuple[str, ...]) -> tuple[int, ...]:
        """Return the ids of all tokens in which one of the texts occurs, in order.

        For a text that no token holds it is the last token of the text, as in
        text-generation-webui.

        Raises:
            BadInputError: a text has a lone surrogate; `SamplingConfig` has none.
        """
        return tuple(sorted({id for text in texts for id in self._ids_of(text)}))

    def _find(self, text: str) -> tuple[int, ...]:
        last = self._tokenizer.encode(text)[-1:]
        wanted = text.encode()
        found = [id for id, piece in enumerate(self._pieces) if wanted in piece]
        return tuple(found or last)


@functools.lru_cache(_MOST_TOKENIZERS)
def breakers_of(tokenizer: Tokenizer) -> SequenceBreakers:
    """Return what finds the ids of a tokenizer; it is made once, since it decodes every id."""
    return SequenceBreakers(tokenizer)
