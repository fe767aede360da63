"""The tokenizer of a Hugging Face folder, as a tokenizer of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.errors import MismatchError, UsageError, one_line
from jaxgpt.tokenizer import huggingface_file
from jaxgpt.tokenizer.chat_template import ROLES
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES
from jaxgpt.tokenizer.tokenizer import FILE_NAME, Tokenizer

_SETTINGS = "tokenizer_config.json"
# Files that an export of the model gives back.
_KEPT = (_SETTINGS, "special_tokens_map.json", "chat_template.jinja")
_CHAT = (*ROLES, "end")


def read_json(path: Path) -> Any:
    """Return the values of a JSON file.

    Raises:
        UsageError: it does not exist.
        MismatchError: it is damaged.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist; --input names a folder of Hugging Face's format")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise MismatchError(f"{path} is not JSON: {one_line(error, 200)}") from None


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a folder: our own, if the model is one of ours, or another.

    Args:
        folder: of the model.
        config: its config.json.

    Raises:
        UsageError: there is no tokenizer.json.
        MismatchError: it is damaged, or the ids of its control tokens are not known.
    """
    if (own := _own_tokenizer(folder)) is not None:
        return own
    values = read_json(folder / "tokenizer.json")
    settings = read_json(folder / _SETTINGS) if (folder / _SETTINGS).is_file() else {}
    files = {
        name: read_json(folder / name)
        if name.endswith(".json")
        else (folder / name).read_text("utf-8")
        for name in _KEPT
        if (folder / name).is_file()
    }
    added = {item["content"]: item["id"] for item in values.get("added_tokens") or ()}
    names = ("bos", "eos", "pad", "unk")
    named = {name: _find_id(name, settings, config, added) for name in names}
    found = {name: id for name, id in named.items() if id is not None}
    if "eos" not in found:
        raise MismatchError(
            f"{folder} says nowhere which token ends a text; give eos_token in {_SETTINGS}, or "
            "eos_token_id in config.json"
        )
    # Where there is no other, the token that ends a text also separates texts and fills rows.
    found = dict.fromkeys(("bos", "pad"), found["eos"]) | found
    return Tokenizer(huggingface_file.pack(values, found, files))


def add_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with control tokens for conversations after its other ids."""
    if set(_CHAT) <= tokenizer.special_ids.keys():
        return tokenizer
    values = huggingface_file.unpack(tokenizer.model)
    ids = {name: tokenizer.vocab_size + place for place, name in enumerate(_CHAT)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": id, "content": CONTROL_PIECES[name], **flags, "special": True}
        for name, id in ids.items()
    ]
    existing = values["tokenizer"].get("added_tokens") or []
    content = values["tokenizer"] | {"added_tokens": existing + added}
    special_ids = values["special_ids"] | ids
    return Tokenizer(huggingface_file.pack(content, special_ids, values["files"]))


def _own_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer in tokenizer.model, if it is one that jaxgpt has trained."""
    try:
        return Tokenizer.load(folder / FILE_NAME) if (folder / FILE_NAME).is_file() else None
    except MismatchError:
        return None


def _find_id(
    name: str, settings: Mapping[str, Any], config: Mapping[str, Any], added: Mapping[str, int]
) -> int | None:
    """Return the id of a control token; None if the folder names none."""
    token = settings.get(f"{name}_token")
    text = str(token.get("content") if isinstance(token, dict) else token)
    if text in added:
        return added[text]
    id = config.get(f"{name}_token_id")
    return id[0] if isinstance(id, list) else id
