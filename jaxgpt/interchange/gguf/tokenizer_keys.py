"""The tokenizer as keys of a GGUF file.

llama.cpp cuts text with SentencePiece's own rules where the file says `llama`: it joins the pair of
pieces whose result has the highest score. A unigram vocabulary needs another search, and came out
with other ids in more than half of the texts that were tried, so it is refused.
"""

from typing import Any

from jaxgpt.errors import ConfigError
from jaxgpt.tokenizer.jinja_template import JINJA
from jaxgpt.tokenizer.sentencepiece_model import parse_model
from jaxgpt.tokenizer.tokenizer import Tokenizer

_KINDS = ("bpe", "char")


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Check that llama.cpp cuts text as a tokenizer does.

    Raises:
        ConfigError: it does not.
    """
    if tokenizer.kind not in _KINDS:
        raise ConfigError(
            f"llama.cpp cuts text in another way than a tokenizer of the kind {tokenizer.kind!r}, "
            f"so no GGUF file is written; kinds that are: {', '.join(_KINDS)}. Export the model "
            "with --format huggingface, or train with such a tokenizer"
        )


def add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """Add a tokenizer and its chat template to a `gguf.GGUFWriter`."""
    pieces = parse_model(tokenizer.model).pieces
    ids = tokenizer.special_ids
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.piece for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    # llama.cpp took SentencePiece's numbers of types.
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_bos_token_id(ids["bos"])
    writer.add_eos_token_id(ids["eos"])
    # Ends an answer, too.
    writer.add_eot_token_id(ids["end"])
    writer.add_unk_token_id(ids["unk"])
    writer.add_pad_token_id(ids["pad"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_remove_extra_whitespaces(False)
    writer.add_chat_template(JINJA)
