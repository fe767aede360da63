"""A small tokenizer, and examples in the words that it knows."""

from functools import cache

from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer


@cache
def small_tokenizer() -> Tokenizer:
    """A tokenizer of few pieces: most words are several ids."""
    words = ["the user asks and the assistant answers " * 3, "how many are there? there are 7"]
    return train_tokenizer(words, TokenizerConfig(vocab_size=300))
