"""Token files that other programs made: nanoGPT's `.bin`, Megatron's `.bin` with its `.idx`.

nanoGPT's is uint16 token ids, nothing else; an id that the user names ends each document. Megatron
has the ids in `.bin` and describes them in `.idx`, little-endian throughout:

    9 bytes   "MMIDIDX\\0\\0"
    uint64    version, 1
    uint8     code of the type of the ids, see _MEGATRON_TYPES
    uint64    number of sequences S
    uint64    number of entries E of the document index
    int32     [S] lengths of the sequences, in tokens
    int64     [S] where they begin in `.bin`, in bytes
    int64     [E] the document index: document d is sequences entry[d] .. entry[d + 1] - 1

Array shapes: D documents, S sequences, E entries.
"""

import dataclasses
import logging
import struct
from pathlib import Path

import numpy as np

from jaxgpt.corpus.dataset.token_headers import MEGATRON_MAGIC, blocks, refuse_header, wider_dtype
from jaxgpt.errors import BadInputError, MismatchError, UsageError
from jaxgpt.storage.mapped_files import map_array
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_MEGATRON_HEADER = struct.Struct("<9sQBQQ")
_MEGATRON_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
# Decoding needs some 40 bytes of memory for each token of a document.
MAX_DOCUMENT_TOKENS = 2**24
# How much is decoded and encoded again to see whether a file was made with a tokenizer.
_NUM_SAMPLES = 64
_SAMPLE_TOKENS = 2048
_OTHER_VOCABULARY = (
    "it was made with another vocabulary: decode it with the tool that made it, and build a "
    "dataset from the text"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Documents as token ids.

    Attributes:
        path: of the `.bin` file.
        tokens: all ids, memory-mapped.
        starts_D, stops_D: int64, the tokens of document d are starts_D[d] .. stops_D[d] - 1;
            padding, BOS and EOS around a document are not among them.
        num_padding: tokens of padding that were left out.
    """

    path: Path
    tokens: np.ndarray
    starts_D: np.ndarray
    stops_D: np.ndarray
    num_padding: int = 0

    def read(self, number: int) -> np.ndarray:
        """Return the ids of a document, int64."""
        return self.tokens[self.starts_D[number] : self.stops_D[number]].astype(np.int64)


def open_nanogpt(path: Path, tokenizer: Tokenizer, eos_id: int) -> TokenFile:
    """Open a file of uint16 ids, or of wider ones; ids after the last EOS are a document, too.

    Raises:
        UsageError: there is no such file.
        MismatchError: it is damaged or of another format, or was not made with the tokenizer.
        BadInputError: it is empty.
    """
    tokens = _map_tokens(path, np.dtype("<u2"))
    refuse_header(path, tokens)
    if (wide := wider_dtype(tokens, tokenizer.vocab_size)) is not None:
        logger.info("%s holds ids of %d bytes", path, wide.itemsize)
        tokens = tokens.view(wide)
    _check_ids(path, tokens, tokenizer)
    ends = [start + np.flatnonzero(block == eos_id) for start, block in blocks(tokens)]
    ends_E = np.concatenate(ends).astype(np.int64)
    starts_D = np.concatenate([[0], ends_E + 1])
    stops_D = np.concatenate([ends_E, [len(tokens)]])
    if starts_D[-1] == len(tokens):
        starts_D, stops_D = starts_D[:-1], stops_D[:-1]
    return _without_ends(path, tokens, starts_D, stops_D, tokenizer, eos_id)


def open_megatron(path: Path, tokenizer: Tokenizer, eos_id: int) -> TokenFile:
    """Open `path`, a `.bin`, with the `.idx` next to it.

    Raises:
        UsageError: one of the two is not there.
        MismatchError: they are damaged, or of different data, or not made with the tokenizer.
        BadInputError: there is nothing in them.
    """
    index_path = path.with_suffix(".idx")
    dtype, lengths_S, pointers_S, entries_E = _read_megatron_index(index_path)
    tokens = _map_tokens(path, dtype)
    ends_S = np.cumsum(lengths_S, dtype=np.int64)
    if (lengths_S < 0).any() or (pointers_S != (ends_S - lengths_S) * dtype.itemsize).any():
        raise MismatchError(
            f"{index_path} is damaged: its sequences do not follow one another; copy it again"
        )
    if (described := int(ends_S[-1]) if len(ends_S) else 0) != len(tokens):
        raise MismatchError(
            f"{path} has {len(tokens)} tokens, and {index_path} describes {described}: one of "
            "them is truncated or belongs to another dataset; copy both again"
        )
    is_index = len(entries_E) > 0 and entries_E[0] == 0 and entries_E[-1] == len(lengths_S)
    if not is_index or (np.diff(entries_E) < 0).any():
        raise MismatchError(
            f"{index_path} is damaged: its document index does not run from 0 to its "
            f"{len(lengths_S)} sequences; copy it again"
        )
    _check_ids(path, tokens, tokenizer)
    edges_E = np.concatenate([[0], ends_S])[entries_E]
    return _without_ends(path, tokens, edges_E[:-1], edges_E[1:], tokenizer, eos_id)


def check_vocabulary(file: TokenFile, tokenizer: Tokenizer) -> None:
    """Decode the first documents and check that encoding gives the same ids. It is not enough that
    all ids are in the vocabulary: any file of small ids would pass. At least half of the ids must
    come back; of another vocabulary hardly any do.

    Raises:
        MismatchError: they do not.
    """
    num_equal = num_compared = 0
    special_ids = list(tokenizer.special_ids.values())
    for start, stop in zip(file.starts_D[:_NUM_SAMPLES], file.stops_D[:_NUM_SAMPLES], strict=True):
        ids = file.tokens[start : min(stop, start + _SAMPLE_TOKENS)]
        # Control tokens are not written in text.
        ids = ids[: int(np.append(np.isin(ids, special_ids), True).argmax())]
        text = tokenizer.decode_bytes(ids.tolist()).decode("utf-8", "ignore")
        again = np.array(tokenizer.encode(text)[: len(ids)], dtype=np.int64)
        num_equal += int(np.append(ids[: len(again)] != again, True).argmax())
        num_compared += len(ids)
    if 2 * num_equal < num_compared:
        raise MismatchError(
            f"{file.path} does not decode to text with this tokenizer: of its first "
            f"{num_compared} tokens, {num_equal} are those that the tokenizer gives their text; "
            f"{_OTHER_VOCABULARY}"
        )


def _read_megatron_index(
    path: Path,
) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """Return (type of the ids, lengths_S, pointers_S, entries_E) of an `.idx` file."""
    try:
        with open(path, "rb") as file:
            header = file.read(_MEGATRON_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(
            f"cannot read {path}, the index next to a Megatron .bin: {error.strerror}"
        ) from None
    if len(header) < _MEGATRON_HEADER.size or not header.startswith(MEGATRON_MAGIC):
        raise MismatchError(f"{path} is not the index of Megatron token files (MMIDIDX)")
    _, version, code, num_sequences, num_entries = _MEGATRON_HEADER.unpack(header)
    if version != 1:
        raise MismatchError(f"{path} has format version {version}; version 1 can be read")
    if code not in _MEGATRON_TYPES:
        raise MismatchError(
            f"{path} has ids of type {code}; integers can be read: "
            f"{', '.join(map(str, _MEGATRON_TYPES))}"
        )
    expected = _MEGATRON_HEADER.size + 12 * num_sequences + 8 * num_entries
    if size != expected:
        raise MismatchError(
            f"{path} has {size} bytes, and {num_sequences} sequences and {num_entries} entries of "
            f"the document index take {expected}: it is truncated or damaged; copy it again"
        )
    arrays, offset = [], _MEGATRON_HEADER.size
    for dtype, count in (("<i4", num_sequences), ("<i8", num_sequences), ("<i8", num_entries)):
        arrays.append(np.fromfile(path, dtype, count, offset=offset).astype(np.int64))
        offset += count * np.dtype(dtype).itemsize
    lengths_S, pointers_S, entries_E = arrays
    return np.dtype(_MEGATRON_TYPES[code]), lengths_S, pointers_S, entries_E


def _map_tokens(path: Path, dtype: np.dtype) -> np.ndarray:
    try:
        size = path.stat().st_size
        if not size:
            raise BadInputError(f"{path} is empty")
        if size % dtype.itemsize:
            raise MismatchError(
                f"{path} has {size} bytes, which is not a whole number of ids of type "
                f"{dtype.name}: it is truncated or has another format; copy it again"
            )
        return map_array(path, dtype)
    except OSError as error:
        raise UsageError(f"cannot read --input {path}: {error.strerror}") from None


def _check_ids(path: Path, tokens: np.ndarray, tokenizer: Tokenizer) -> None:
    for start, block in blocks(tokens):
        is_wrong = (block < 0) | (block >= tokenizer.vocab_size)
        if is_wrong.any():
            place = int(is_wrong.argmax())
            raise MismatchError(
                f"{path}: token {start + place} (counted from 0) is id {block[place]}, and the "
                f"tokenizer has ids 0..{tokenizer.vocab_size - 1}; {_OTHER_VOCABULARY}"
            )


def _without_ends(
    path: Path,
    tokens: np.ndarray,
    starts_D: np.ndarray,
    stops_D: np.ndarray,
    tokenizer: Tokenizer,
    eos_id: int,
) -> TokenFile:
    """Leave out padding around documents, BOS at their beginning and EOS at their end.

    Raises:
        MismatchError: a document is too long, or has a control id inside.
    """
    longest = int((stops_D - starts_D).max(initial=0))
    if longest > MAX_DOCUMENT_TOKENS:
        raise MismatchError(
            f"{path} has a document of {longest} tokens; at most {MAX_DOCUMENT_TOKENS} are "
            f"allowed. Name the id that ends documents with --eos-id"
        )
    starts_D, stops_D = starts_D.copy(), stops_D.copy()
    is_control_V = np.zeros(tokenizer.vocab_size, bool)
    is_control_V[list(tokenizer.special_ids.values())] = True
    num_padding = 0
    for number in range(len(starts_D)):
        ids = tokens[starts_D[number] : stops_D[number]]
        begin, end = _skip_padding(ids, 0, len(ids), tokenizer.pad_id)
        if begin < end and ids[begin] == tokenizer.bos_id:
            begin, end = _skip_padding(ids, begin + 1, end, tokenizer.pad_id)
        if begin < end and ids[end - 1] == eos_id:
            begin, end = _skip_padding(ids, begin, end - 1, tokenizer.pad_id)
        is_control = is_control_V[ids[begin:end]]
        if is_control.any():
            place = begin + int(is_control.argmax())
            raise _control_id_error(
                path, number, int(starts_D[number]) + place, ids[place], tokenizer
            )
        num_padding += int(np.count_nonzero(ids == tokenizer.pad_id))
        starts_D[number], stops_D[number] = starts_D[number] + begin, starts_D[number] + end
    return TokenFile(
        path=path, tokens=tokens, starts_D=starts_D, stops_D=stops_D, num_padding=num_padding
    )


def _skip_padding(ids: np.ndarray, begin: int, end: int, pad_id: int) -> tuple[int, int]:
    """Narrow [begin, end) to the tokens between the padding at both ends."""
    is_text = ids[begin:end] != pad_id
    if not is_text.any():
        return begin, begin
    return begin + int(is_text.argmax()), end - int(is_text[::-1].argmax())


def _control_id_error(
    path: Path, number: int, place: int, id: int, tokenizer: Tokenizer
) -> MismatchError:
    names = {value: name for name, value in tokenizer.special_ids.items()}
    return MismatchError(
        f"{path}: token {place} (counted from 0), inside document {number + 1}, is the control id "
        f"{id} ({names[int(id)]}); a document holds ids of text only, with padding, BOS and EOS "
        f"around it: take it out, or name the id that ends documents with --eos-id"
    )
