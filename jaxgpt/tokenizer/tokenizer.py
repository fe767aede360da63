"""Text <-> token ids, without loss, over a SentencePiece model.

Every Unicode string survives the round trip: nothing is normalised, characters that the
vocabulary lacks become their UTF-8 bytes, and control tokens cannot be written in text.
How a tokenizer is trained is in `training.py`.
"""

import bisect
import codecs
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from jaxgpt.errors import BadInputError, MismatchError, UsageError, one_line
from jaxgpt.names.nearby_paths import describe_nearby_files
from jaxgpt.storage.durable import write_atomically
from jaxgpt.tokenizer import huggingface_file
from jaxgpt.tokenizer.cached_encoder import UnitEncoder
from jaxgpt.tokenizer.huggingface_file import open_huggingface
from jaxgpt.tokenizer.sentencepiece_model import (
    CONTROL_PIECES,
    KINDS,
    SPACE_SYMBOL,
    bytes_of,
    fingerprint_of,
    parse_model,
    texts_inside,
)
from jaxgpt.tokenizer.vocabulary import Vocabulary

FILE_NAME = "tokenizer.model"
FILE_NAMES = (FILE_NAME, huggingface_file.FILE_NAME)
# Far above any real vocabulary: 256k pieces take 5 MB.
MAX_FILE_BYTES = 64 * 2**20

_SURROGATE = re.compile("[\ud800-\udfff]")


def find_file(folder: Path) -> Path:
    """Return the tokenizer file in a folder, or where one of our own would be."""
    candidates = [folder / name for name in FILE_NAMES]
    return next((path for path in candidates if path.is_file()), folder / FILE_NAME)


class Tokenizer:
    """A trained vocabulary, ready to encode and decode.

    Attributes:
        kind: the algorithm that cuts text: `bpe`, `unigram` or `char`; `huggingface` for what came
            with an imported model.
        file_name: name of its file in a folder.
        vocab_size: number of ids; they are 0 .. vocab_size - 1.
        special_ids: control tokens by name (pad, unk, bos, eos, system, user, assistant, end); an
            imported tokenizer may have pad, bos and eos only.
            `encode` never returns one of them and `decode` turns them into nothing.
        bytes_per_token: int32 [vocab_size], bytes of UTF-8 text that each id stands for; 0 for
            control tokens. The sum over `encode(text)` is the length of `text` in bytes.
        fingerprint: SHA-256 of what decides ids: pieces, scores, types and settings. Two files
            with one fingerprint encode alike, whatever else they carry.
    """

    def __init__(self, model: bytes) -> None:
        """Open the content of a file: a SentencePiece model, or JSON (`huggingface_file.py`).

        Raises:
            MismatchError: it is neither, or a model that does not keep text as it is.
        """
        self._model = model
        # JSON begins with a brace, and SentencePiece's protobuf never does.
        vocabulary = open_huggingface(model) if model[:1] == b"{" else _open_sentencepiece(model)
        self.kind = vocabulary.kind
        self.file_name = vocabulary.file_name
        self.vocab_size = len(vocabulary.pieces)
        self.special_ids = vocabulary.special_ids
        self.fingerprint = vocabulary.fingerprint
        self._bytes = vocabulary.pieces
        self._units = vocabulary.encoder
        self.bytes_per_token = np.array([len(text) for text in self._bytes], dtype=np.int32)
        self.bytes_per_token.setflags(write=False)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Open a model file, or the one in a folder, a dataset folder or a run folder.

        Raises:
            UsageError: `path` does not exist.
            MismatchError: there is no tokenizer in the folder, or the file is not one.
        """
        path = Path(path)
        if not path.exists():
            raise UsageError(
                f"no tokenizer at {path}: it does not exist{describe_nearby_files(path)}"
            )
        file = path
        if path.is_dir():
            candidates = [find_file(folder) for folder in (path, path / "tokenizer")]
            file = next((candidate for candidate in candidates if candidate.is_file()), path)
            if file == path:
                raise MismatchError(
                    f"{path} holds no tokenizer: expected {FILE_NAME} in it or in its folder "
                    f"tokenizer/; train one with tools/train_tokenizer.py"
                )
        try:
            if (size := file.stat().st_size) > MAX_FILE_BYTES:
                raise MismatchError(
                    f"{file} has {size} bytes; a tokenizer has at most {MAX_FILE_BYTES}"
                )
            return cls(file.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read the tokenizer {file}: {error.strerror}") from None
        except MismatchError as error:
            raise MismatchError(f"{file}: {error}") from None

    def save(self, directory: str | Path) -> Path:
        """Write the model to `directory`, made if need be, and return the file's path."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / self.file_name, self._model)
        return directory / self.file_name

    @property
    def model(self) -> bytes:
        """Content of the model file."""
        return self._model

    @property
    def bos_id(self) -> int:
        """Id that begins every document."""
        return self.special_ids["bos"]

    @property
    def eos_id(self) -> int:
        """Id that ends every document."""
        return self.special_ids["eos"]

    @property
    def pad_id(self) -> int:
        """Id that fills rows up; never predicted."""
        return self.special_ids["pad"]

    @property
    def unk_id(self) -> int:
        """Id that SentencePiece demands for unknown text; there is none, so it is never used."""
        return self.special_ids["unk"]

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without BOS or EOS.

        Raises:
            BadInputError: `text` has a lone surrogate, which is no character and has no UTF-8.
        """
        try:
            return self._units.encode(text)
        except UnicodeEncodeError:
            _refuse_surrogates(text)
            raise

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `[encode(text) for text in texts]`.

        Raises:
            BadInputError: a text has a lone surrogate.
        """
        ids, offsets = self.encode_to_array(texts)
        return [ids[start:stop].tolist() for start, stop in itertools.pairwise(offsets.tolist())]

    def encode_to_array(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all `texts`, one after the other, and where each begins.

        Returns:
            int32 [number of ids], int64 [number of texts + 1].

        Raises:
            BadInputError: a text has a lone surrogate.
        """
        try:
            return self._units.encode_many(texts)
        except UnicodeEncodeError:
            for text in texts:
                _refuse_surrogates(text)
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; `decode(encode(text)) == text`.

        Control tokens become nothing. Ids in an order that no text has (a model may emit half
        a character) become U+FFFD where their bytes are not UTF-8.

        Raises:
            ValueError: an id outside of the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes that `ids` stand for, whole characters or not.

        Raises:
            ValueError: an id outside of the vocabulary.
        """
        ids = list(ids)
        if ids and not (min(ids) >= 0 and max(ids) < self.vocab_size):
            wrong = next(id for id in ids if not 0 <= id < self.vocab_size)
            raise ValueError(f"token id {wrong} is outside 0..{self.vocab_size - 1}")
        return b"".join(map(self._bytes.__getitem__, ids))

    @functools.cached_property
    def _sorted_pieces(self) -> list[bytes]:
        return sorted(set(self._bytes))

    def can_continue(self, text: bytes) -> bool:
        """Return whether a piece begins with `text` and is longer."""
        place = bisect.bisect_right(self._sorted_pieces, text)
        return place < len(self._sorted_pieces) and self._sorted_pieces[place].startswith(text)

    def allowed_before(self, text: bytes) -> np.ndarray:
        """Return a bool [vocab_size]: the ids that text going on with `text` may begin with.

        They are the pieces that begin with `text`, and those that are a beginning of it.
        """
        return np.array(
            [
                bool(piece) and (piece.startswith(text) or text.startswith(piece))
                for piece in self._bytes
            ]
        )

    def describe(self) -> dict[str, Any]:
        """Return what a manifest records of a tokenizer: fingerprint, kind, size, control ids."""
        return {
            "sha256": self.fingerprint,
            "type": self.kind,
            "vocab_size": self.vocab_size,
            "special_ids": dict(self.special_ids),
        }


def _open_sentencepiece(model: bytes) -> Vocabulary:
    proto = parse_model(model)
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise MismatchError(f"not a SentencePiece model: {one_line(error, 200)}") from None
    ids = {piece.piece: id for id, piece in enumerate(proto.pieces)}
    # What SentencePiece would not give back: its own sign for a space, and, where no piece is
    # a space, the space, of which it would write the sign's bytes.
    in_bytes = SPACE_SYMBOL if SPACE_SYMBOL in ids else f"{SPACE_SYMBOL} "
    fixed = {
        character: [ids[f"<0x{byte:02X}>"] for byte in character.encode()] for character in in_bytes
    }
    return Vocabulary(
        kind=KINDS[proto.trainer_spec.model_type],
        pieces=[bytes_of(piece) for piece in proto.pieces],
        special_ids={name: ids[piece] for name, piece in CONTROL_PIECES.items()},
        fingerprint=fingerprint_of(proto),
        encoder=UnitEncoder(processor, texts_inside(proto), fixed),
        file_name=FILE_NAME,
    )


class StreamDecoder:
    """Text from ids that arrive bit by bit, never half a character.

    The concatenation of all that `feed` and one final `flush` return equals `decode` of all ids,
    without the bytes that are skipped.
    """

    def __init__(self, tokenizer: Tokenizer, skip_bytes: int = 0) -> None:
        """Start a stream; its first `skip_bytes` bytes are left out."""
        self._tokenizer = tokenizer
        self._skip_bytes = skip_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """Take more ids and return the text that is complete with them."""
        data = self._tokenizer.decode_bytes(ids)
        skipped, self._skip_bytes = self._skip_bytes, max(0, self._skip_bytes - len(data))
        return self._decoder.decode(data[skipped:])

    def flush(self) -> str:
        """Return what is left: U+FFFD for an unfinished character, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


def _refuse_surrogates(text: str) -> None:
    if found := _SURROGATE.search(text):
        raise BadInputError(
            f"the text has a lone surrogate U+{ord(found.group()):04X} at character "
            f"{found.start()}; which is half of a UTF-16 pair and not text: decode the input as "
            "UTF-8, or replace it with U+FFFD"
        )
