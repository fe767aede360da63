"""Tokenizers of Hugging Face's package `tokenizers`, which come with imported models.

The file is JSON: {"version", "special_ids", "tokenizer": content of tokenizer.json, "files": others
that came with it, by name}. Ids are those of `tokenizers`, but that control tokens spelled in a
text stay text. A tokenizer that normalises text, as some do, does not give it back as it was.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgpt.errors import MismatchError, one_line
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.tokenizer.sentencepiece_model import SPACE_SYMBOL
from jaxgpt.tokenizer.vocabulary import Vocabulary

FILE_NAME = "huggingface_tokenizer.json"
KIND = "huggingface"
_VERSION = 1
# Without effect on the ids of one text.
_WITHOUT_EFFECT = ("truncation", "padding", "post_processor")


def pack(
    tokenizer: Mapping[str, Any], special_ids: Mapping[str, int], files: Mapping[str, Any]
) -> bytes:
    """Return the content of a file.

    Args:
        tokenizer: content of tokenizer.json.
        special_ids: control tokens by name; bos, eos and pad at least.
        files: others that came with it, JSON values by name, for an export.
    """
    content = {
        "version": _VERSION,
        "special_ids": dict(special_ids),
        "tokenizer": dict(tokenizer),
        "files": dict(files),
    }
    return json.dumps(content, ensure_ascii=False).encode()


def unpack(content: bytes) -> dict[str, Any]:
    """Return the JSON values of a file.

    Raises:
        MismatchError: it is damaged, or of another version.
    """
    try:
        values = json.loads(content)
    except ValueError as error:
        raise MismatchError(f"not a tokenizer file: {one_line(error, 200)}") from None
    if not isinstance(values, dict) or values.get("version") != _VERSION:
        raise MismatchError(f"not a tokenizer file of version {_VERSION}")
    return values


def open_huggingface(content: bytes) -> Vocabulary:
    """Open a file that `pack` made.

    Raises:
        MismatchError: it is damaged, or its pieces do not say which bytes they stand for.
        ConfigError: the package tokenizers is not installed.
    """
    values = unpack(content)
    package = import_package("tokenizers", "an imported tokenizer", install_advice("export"))
    try:
        tokenizer = package.Tokenizer.from_str(json.dumps(values["tokenizer"]))
    except Exception as error:  # The package has no type of its own for it.
        raise MismatchError(f"not a tokenizer.json: {one_line(error, 200)}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return Vocabulary(
        kind=KIND,
        pieces=_pieces(tokenizer, values["tokenizer"]),
        special_ids=values["special_ids"],
        fingerprint=_fingerprint(values),
        encoder=_Encoder(tokenizer),
        file_name=FILE_NAME,
    )


class _Encoder:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0].tolist()

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        for text in texts:
            text.encode()
        rows = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(row.ids, np.int32) for row in rows]
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return np.concatenate([np.zeros(0, np.int32), *ids]), offsets


def _fingerprint(values: Mapping[str, Any]) -> str:
    tokenizer = {
        key: value for key, value in values["tokenizer"].items() if key not in _WITHOUT_EFFECT
    }
    decisive = json.dumps([values["special_ids"], tokenizer], sort_keys=True)
    return hashlib.sha256(b"jaxgpt tokenizers, version 1\n" + decisive.encode()).hexdigest()


def _pieces(tokenizer: Any, values: Mapping[str, Any]) -> list[bytes]:
    """Return the bytes of text that each id stands for."""
    added = {item["id"]: item for item in values.get("added_tokens") or ()}
    decoders = _decoder_names(values.get("decoder"))
    if "ByteLevel" in decoders:
        characters = _byte_characters()
        to_bytes = _by_characters(characters)
    elif "ByteFallback" in decoders:
        to_bytes = _by_fallback
    else:
        raise MismatchError(
            f"the tokenizer decodes by {', '.join(decoders) or 'nothing'}; those that are read "
            "decode by ByteLevel or ByteFallback"
        )
    ids = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(ids.values()) + 1)
    for text, id in ids.items():
        if id not in added:
            pieces[id] = to_bytes(text)
        elif not added[id]["special"]:
            pieces[id] = text.encode()
    return pieces


def _decoder_names(decoder: Mapping[str, Any] | None) -> list[str]:
    parts = [] if decoder is None else decoder.get("decoders", [decoder])
    return [part["type"] for part in parts]


def _by_characters(table: Mapping[str, int]) -> Any:
    def to_bytes(piece: str) -> bytes:
        # A character outside of the table stands for itself, as in added tokens.
        return b"".join(bytes([table[each]]) if each in table else each.encode() for each in piece)

    return to_bytes


def _by_fallback(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE_SYMBOL, " ").encode()


def _byte_characters() -> dict[str, int]:
    """Return the byte that each character of GPT-2's alphabet stands for.

    Bytes that Latin-1 prints stand for themselves; the others follow from U+0100 on.
    """
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printed]
    table = {chr(byte): byte for byte in printed}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
