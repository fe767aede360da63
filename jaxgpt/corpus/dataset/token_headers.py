"""Checks of a file of token ids: headers of other formats, and the width of an id."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxgpt.errors import MismatchError

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
# Tokens that are looked at in one go.
_BLOCK_TOKENS = 2**22
# Fewer numbers do not show that every other one is 0.
_MIN_WIDE = 4
_NPY_MAGIC = b"\x93NUMPY"
# Headers of llm.c are 256 int32: magic number, version, number of tokens, zeros.
_LLM_C_ITEMSIZES = {20240520: 2, 20240801: 4}
_LLM_C_HEADER_BYTES = 1024


def refuse_header(path: Path, tokens: np.ndarray) -> None:
    """Refuse a file that begins with the header of another format.

    Raises:
        MismatchError: the header is of a known format; the error says how to remove it.
    """
    head = tokens[: _LLM_C_HEADER_BYTES // 2].tobytes()
    if head.startswith(_NPY_MAGIC):
        raise MismatchError(
            f"{path} is a NumPy file (.npy) with a header: write the ids alone, with "
            f"numpy.load(FILE).astype('uint16').tofile(NEW_FILE), and import that"
        )
    if head.startswith(MEGATRON_MAGIC):
        raise MismatchError(
            f"{path} is the index of Megatron token files: give the .bin next to it, and "
            f"--format megatron"
        )
    if len(head) == _LLM_C_HEADER_BYTES:
        magic, _, num_tokens = struct.unpack_from("<3i", head)
        itemsize = _LLM_C_ITEMSIZES.get(magic)
        size = tokens.nbytes - _LLM_C_HEADER_BYTES
        if itemsize is not None and num_tokens * itemsize == size:
            raise MismatchError(
                f"{path} has the header of llm.c (magic number {magic}) instead of ids. llm.c's "
                "own files have the ids of GPT-2 or Llama 3: decode those with the tool that "
                "made them, and build a dataset from the text. If a jaxgpt tokenizer made the "
                f"ids, cut the header off: tail -c +{_LLM_C_HEADER_BYTES + 1} FILE > NEW_FILE"
            )


def wider_dtype(tokens: np.ndarray, vocab_size: int) -> np.dtype | None:
    """Return the type of ids that were written with 8 or 4 bytes each; None for 2 bytes.

    The upper bytes of wide ids are 0, or nearly, and no text has the id 0, which is padding, at
    every second place.
    """
    limit = max(vocab_size, 2**16)
    for dtype in (np.dtype("<i8"), np.dtype("<u4")):
        width = dtype.itemsize // tokens.itemsize
        if len(tokens) % width or len(tokens) < width * _MIN_WIDE:
            continue
        wide = tokens.view(dtype)
        if all(block.min() >= 0 and block.max() < limit for _, block in blocks(wide)):
            return dtype if wide.any() else None
    return None


def blocks(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (place of its first token, tokens) of blocks of a long array."""
    for start in range(0, len(tokens), _BLOCK_TOKENS):
        yield start, tokens[start : start + _BLOCK_TOKENS]
