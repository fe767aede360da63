"""A small tokenizer with a chat template, and what it renders as text."""

from functools import cache

import numpy as np

from jaxgpt.tokenizer.chat_template import ChatTemplate
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.languages import LANGUAGES

TYPED = ["<|end|>", "<|assistant|>", "<|system|>", "<s>", "</s>", "<pad>"]


@cache
def template() -> ChatTemplate:
    words = [*list(LANGUAGES.values())[:3], *TYPED]
    return ChatTemplate(train_tokenizer(words, TokenizerConfig(vocab_size=600)))


def spans(marks: list[bool]) -> list[tuple[int, int]]:
    """Return where runs of True begin and end."""
    edges = np.flatnonzero(np.diff([False, *marks, False]))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def as_text(ids: np.ndarray, weights: np.ndarray) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of ids, control ids by their pieces, and its spans that are predicted."""
    tokenizer = template().tokenizer
    pieces = {tokenizer.special_ids[name]: text for name, text in CONTROL_PIECES.items()}
    written = [
        pieces[id].encode() if id in pieces else tokenizer.decode_bytes([id]) for id in ids.tolist()
    ]
    data = b"".join(written)
    marks = np.repeat(weights > 0, [len(each) for each in written]).tolist()
    as_characters = [(len(data[:a].decode()), len(data[:b].decode())) for a, b in spans(marks)]
    return data.decode(), as_characters
