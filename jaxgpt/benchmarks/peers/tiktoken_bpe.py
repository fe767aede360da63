"""A vocabulary for tiktoken, to compare with: byte pairs of the same text, GPT-2's words."""

from collections.abc import Iterable
from typing import Any

from jaxgpt.names.packages import import_package, install_advice


def train_tiktoken(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a `tiktoken.Encoding` of `vocab_size` ids.

    Raises:
        ConfigError: tiktoken, or tokenizers, which trains its pairs, is not installed.
    """
    tiktoken, tokenizers = (
        import_package(name, "--against tiktoken", install_advice("benchmark"))
        for name in ("tiktoken", "tokenizers")
    )
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    model: Any = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,  # type: ignore[call-arg]
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    byte_of = _byte_of_character()
    ranks = {
        bytes(byte_of[character] for character in piece): id
        for piece, id in model.get_vocab().items()
    }
    # tiktoken wants the bytes in the order of their values nowhere, but every byte somewhere.
    return tiktoken.Encoding(
        name=f"byte pairs {len(ranks)}",
        pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
        mergeable_ranks=ranks,
        special_tokens={},
    )


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's spelling of bytes: printable ones as they are, others from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
