"""Ids of conversations as texts for people."""

from collections.abc import Sequence

import numpy as np

from jaxgpt.tokenizer.tokenizer import Tokenizer


def conversation_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return the text of a prompt, each message after the name of its role."""
    names = {id: name for name, id in tokenizer.special_ids.items()}
    pieces, content = [], []
    for id in [*ids[1:], tokenizer.special_ids["end"]]:
        if id not in names:
            content.append(id)
            continue
        pieces.append(tokenizer.decode(content))
        content = []
        pieces.append("\n" if names[id] == "end" else f"{names[id]}: ")
    return "".join(pieces).strip()


def text_without_controls(ids_L: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text of ids [L], control ids left out."""
    control = np.array(sorted(tokenizer.special_ids.values()))
    return tokenizer.decode(ids_L[~np.isin(ids_L, control)].tolist())
