"""Text -> a trained `Tokenizer`.

A bounded sample of the text is drawn by content, cut into words and counted; SentencePiece learns
its pieces from the counts. The result depends on the set of texts and the config, not on the order
of the texts, the number of cores or the run. How the result is used is in `tokenizer.py`.
"""

import hashlib
import heapq
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import sentencepiece

from jaxgpt.config import configclass
from jaxgpt.errors import BadInputError, ConfigError, one_line
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES, SPACE_SYMBOL, Model
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Control tokens and the 256 bytes.
NUM_FIXED_PIECES = len(CONTROL_PIECES) + 256

Kind = Literal["bpe", "unigram", "char"]


@configclass
class TokenizerConfig:
    """Settings of tokenizer training."""

    kind: Kind = "bpe"
    """Kind of pieces: bpe (pairs merged by frequency), unigram (likeliest pieces), char."""
    vocab_size: int = 16384
    """Number of token ids wanted; fewer where the text does not have that many pieces."""
    character_coverage: float = 0.9995
    """Share of the text whose characters get an id of their own (bpe, unigram); rarer ones become
    bytes."""
    max_piece_length: int = 32
    """Most characters of a piece."""
    sample_bytes: int = 64 * 2**20
    """Bytes of text to train on, sampled from the whole text."""
    seed: int = 0
    """Random seed of the sample of text."""

    def __post_init__(self) -> None:
        if self.vocab_size <= NUM_FIXED_PIECES:
            raise ValueError(
                f"vocab_size = {self.vocab_size}: must be more than {NUM_FIXED_PIECES}, the "
                f"{len(CONTROL_PIECES)} control tokens and the 256 bytes that every vocabulary has"
            )
        if self.vocab_size > 2**20:
            raise ValueError(f"vocab_size = {self.vocab_size}: must be at most {2**20}")
        if not 0.9 <= self.character_coverage <= 1.0:
            raise ValueError(
                f"character_coverage = {self.character_coverage}: must be between 0.9 and 1.0"
            )
        if not 1 <= self.max_piece_length <= 512:
            raise ValueError(
                f"max_piece_length = {self.max_piece_length}: must be between 1 and 512"
            )
        if self.sample_bytes < 1:
            raise ValueError(f"sample_bytes = {self.sample_bytes}: must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed}: must be from 0 to 2**63 - 1")


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a tokenizer on `texts`, whose order does not matter.

    Memory is bounded, whatever the amount of text. A vocabulary larger than the text supports is
    lowered, with a warning; `Tokenizer.vocab_size` says to what.

    Raises:
        BadInputError: there is no text.
        ConfigError: SentencePiece refuses the settings.
    """
    words = _bound(count_words(sample_texts(texts, config.sample_bytes, config.seed)))
    room = config.vocab_size - NUM_FIXED_PIECES
    if config.kind == "char":
        counts = most_frequent_characters(words, room, coverage=1.0)
    else:
        # Half of the ids are left for longer pieces, whatever the script.
        kept = most_frequent_characters(words, (room + 1) // 2, config.character_coverage)
        counts = _split_at_rare(words, set(kept))
    if not counts:
        raise BadInputError("there is no text to train a tokenizer on; give at least one character")
    tokenizer = Tokenizer(_train(counts, config))
    if tokenizer.vocab_size < config.vocab_size:
        logger.log(
            # Characters are what they are: there, the size asked for is only a limit.
            logging.INFO if config.kind == "char" else logging.WARNING,
            "the text supports a vocabulary of %d pieces, not %d: using %d",
            tokenizer.vocab_size,
            config.vocab_size,
            tokenizer.vocab_size,
        )
    return tokenizer


# The sample.

_CHUNK_CHARACTERS = 2**16


def sample_texts(texts: Iterable[str], max_bytes: int, seed: int) -> list[str]:
    """Draw about `max_bytes` of text, the same for any order of `texts`.

    Texts are cut into chunks of at most 64 Ki characters, at ends of lines where possible; kept
    are the chunks with the smallest seeded hash of their content, in that order. Holds no more
    than the result in memory.
    """
    key = seed.to_bytes(8, "little")
    heap: list[tuple[int, int, str]] = []  # (-hash, size, chunk): the largest hash on top
    total = 0
    for text in texts:
        for chunk in _cut(text):
            data = chunk.encode("utf-8", "surrogatepass")
            digest = int.from_bytes(hashlib.blake2b(data, digest_size=8, key=key).digest(), "big")
            if total >= max_bytes and digest >= -heap[0][0]:
                continue
            heapq.heappush(heap, (-digest, len(data), chunk))
            total += len(data)
            while total - heap[0][1] >= max_bytes:
                total -= heapq.heappop(heap)[1]
    return [chunk for _, _, chunk in sorted(heap, reverse=True)]


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _CHUNK_CHARACTERS:
        stop = start + _CHUNK_CHARACTERS
        stop = text.rfind("\n", start, stop) + 1 or stop
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


# Words. SentencePiece takes its training text line by line, forbids tabs, keeps a space only at
# the front of a piece, and so spends four ids on the four spaces of a Python indent after one for
# the newline. None of that binds a finished model. So words are cut here, a line's end going
# together with the indentation and the punctuation around it; space and tab are trained under
# stand-ins; and the pieces get the real characters back. (Pieces never span the cuts of
# `tokenizer.py`: a word has no space after a word, and no letter after an end of line.)

_WORD = re.compile(
    r" ?\S+(?:\n[ \t\n]*[^\w\s]*)?"  # a word, the space before it, the end of line after it
    r"|\n[ \t\n]*[^\w\s]*"  # empty lines and indentation, up to the first letter
    r"|[ \t]+(?= \S)|[ \t]+"  # other runs of spaces; the last space belongs to the next word
    r"|\s"
)
_MAX_WORD_CHARACTERS = 1000  # e.g. of base64; the trainer's positions are 16 bits
# Of all different words. The trainer needs about 100 bytes for each; 64 MiB of text with spaces
# have fewer, of text without spaces far more.
_MAX_TRAINING_CHARACTERS = 12 * 2**20
# Variation selectors: of no script of their own, so pieces may join them with any script.
_STAND_INS = {" ": "\U000e01ee", "\t": "\U000e01ef"}
_TO_STAND_INS = str.maketrans(_STAND_INS)
_FROM_STAND_INS = str.maketrans({_STAND_INS[" "]: SPACE_SYMBOL, _STAND_INS["\t"]: "\t"})
# Characters that no piece can have: SentencePiece's own marks, NUL, surrogates, the stand-ins.
_UNTRAINABLE = re.compile(f"[{SPACE_SYMBOL}\u2585\0\ud800-\udfff{''.join(_STAND_INS.values())}]+")


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words that pieces are learned from; a piece never crosses two of them."""
    counts: Counter[str] = Counter()
    for text in texts:
        for part in _UNTRAINABLE.split(text):
            counts.update(_WORD.findall(part))
    for word in [word for word in counts if len(word) > _MAX_WORD_CHARACTERS]:
        number = counts.pop(word)
        for start in range(0, len(word), _MAX_WORD_CHARACTERS):
            counts[word[start : start + _MAX_WORD_CHARACTERS]] += number
    return counts


def _bound(words: Counter[str]) -> Counter[str]:
    """Leave rare words out if there are too many to train on; a hash of the word chooses."""
    if sum(map(len, words)) <= _MAX_TRAINING_CHARACTERS:
        return words
    kept: Counter[str] = Counter()
    num_characters = 0
    for _, _, word in sorted((-number, _hash(word), word) for word, number in words.items()):
        num_characters += len(word)
        if num_characters > _MAX_TRAINING_CHARACTERS:
            break
        kept[word] = words[word]
    return kept


def most_frequent_characters(words: Counter[str], limit: int, coverage: float) -> Counter[str]:
    """Count characters, and keep the most frequent ones.

    Args:
        words: number of occurrences of each word.
        limit: most characters to keep.
        coverage: share of all occurrences at which no more are kept.
    """
    counts: Counter[str] = Counter()
    for word, number in words.items():
        for character in word:
            counts[character] += number
    wanted = coverage * counts.total()
    kept: Counter[str] = Counter()
    covered = 0
    for character, number in sorted(counts.items(), key=_most_frequent_first):
        if len(kept) == limit or covered >= wanted:
            break
        kept[character] = number
        covered += number
    return kept


def _split_at_rare(counts: Counter[str], kept: set[str]) -> Counter[str]:
    """Leave the characters out that get no id, cutting words where they stood."""
    result: Counter[str] = Counter()
    for word, number in counts.items():
        if kept.issuperset(word):
            result[word] += number
            continue
        marked = "".join(character if character in kept else "\0" for character in word)
        for part in marked.split("\0"):
            if part:
                result[part] += number
    return result


def _hash(word: str) -> bytes:
    return hashlib.blake2b(word.encode(), digest_size=8).digest()


def _most_frequent_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


# SentencePiece.


def _train(counts: Counter[str], config: TokenizerConfig) -> bytes:
    """Let SentencePiece learn pieces from counted words; return the model it should be used as."""
    lines = (
        f"{word.translate(_TO_STAND_INS)}\t{number}"
        for word, number in sorted(counts.items(), key=_most_frequent_first)
    )
    model = io.BytesIO()
    ids_and_pieces: dict[str, Any] = {}
    for id, name in enumerate(("pad", "unk", "bos", "eos")):
        ids_and_pieces |= {f"{name}_id": id, f"{name}_piece": CONTROL_PIECES[name]}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            input_format="tsv",
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            max_sentencepiece_length=config.max_piece_length,
            max_sentence_length=2**20,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_by_whitespace=False,
            split_digits=True,
            byte_fallback=True,
            **ids_and_pieces,
            control_symbols=list(CONTROL_PIECES.values())[4:],
            num_threads=1,  # the pieces of unigram depend on it
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"SentencePiece cannot train a {config.kind} vocabulary of {config.vocab_size}: "
            f"{one_line(error, 200)}"
        ) from None
    return _with_real_characters(model.getvalue())


def _with_real_characters(model: bytes) -> bytes:
    """Put space and tab back in the place of their stand-ins."""
    proto = Model.FromString(model)
    for piece in proto.pieces:
        piece.piece = piece.piece.translate(_FROM_STAND_INS)
    proto.trainer_spec.ClearField("input_format")
    return proto.SerializeToString(deterministic=True)
