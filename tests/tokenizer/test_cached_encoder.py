"""Encoding by units gives the ids of the whole text, whatever the vocabulary and the text."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.tokenizer import cached_encoder
from jaxgpt.tokenizer.sentencepiece_model import SPACE_SYMBOL, Model, PieceType
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import Kind, TokenizerConfig, train_tokenizer
from tests.languages import AWKWARD, LANGUAGES

CODE = Path(__file__).read_text("utf-8")
KINDS: tuple[Kind, ...] = ("bpe", "unigram", "char")
TEXTS = [CODE, *LANGUAGES.values(), *AWKWARD.values()]
_trained: dict[str, Tokenizer] = {}


def tokenizer_of(kind: str) -> Tokenizer:
    """A trained one, or one `from outside`, with pieces that no training here would make."""
    if kind not in _trained:
        if kind == "outside":
            _trained[kind] = _from_outside()
        else:
            config = TokenizerConfig(kind=kind, vocab_size=1000)  # type: ignore[arg-type]
            _trained[kind] = train_tokenizer([*list(LANGUAGES.values())[::2], CODE], config)
    return _trained[kind]


def _from_outside() -> Tokenizer:
    """Pieces over spaces and line ends, one that is passed through but never comes out."""
    proto = Model.FromString(tokenizer_of("bpe")._model)
    normal = [piece for piece in proto.pieces if piece.type == PieceType.NORMAL]
    longest = sorted(normal, key=lambda piece: -len(piece.piece))
    longest[0].piece, longest[0].type = "of\u2581the\u2581world", PieceType.USER_DEFINED
    longest[1].piece, longest[1].type = "a\na", PieceType.USER_DEFINED
    the = next(piece for piece in normal if piece.piece == "\u2581the")
    the.type = PieceType.UNUSED
    return Tokenizer(proto.SerializeToString())


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    """What SentencePiece makes of the text in one go, its own sign for a space put aside."""
    first, *rest = (tokenizer._units._processor.encode(part) for part in text.split(SPACE_SYMBOL))
    sign = [
        tokenizer._units._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode()
    ]
    return list(itertools.chain(first, *([*sign, *part] for part in rest)))


pieces_of_text = st.lists(
    st.sampled_from(
        [*"a Zß é漢🙂\t\n\r\0\u2581\ufffd7_(.", "the", " the", "of the world", "a\na", "\n    self"]
    )
).map("".join)


@pytest.mark.parametrize("kind", ["bpe", "char", "outside"])
@settings(max_examples=100, deadline=None)
@given(text=st.text() | pieces_of_text)
def test_units_give_the_ids_of_the_whole_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert tokenizer.encode(text) == whole(tokenizer, text)


@pytest.mark.parametrize("kind", ["bpe", "char", "outside"])
def test_also_of_natural_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for text in [*TEXTS, " ".join(TEXTS)]:
        assert tokenizer.encode(text) == whole(tokenizer, text)


@settings(max_examples=100, deadline=None)
@given(text=st.text() | pieces_of_text)
def test_the_likeliest_cut_of_units_is_as_likely_as_that_of_the_whole(text: str) -> None:
    # Sums of scores are rounded, so that of two cuts that are equally likely either may come out.
    tokenizer = tokenizer_of("unigram")
    scores = np.array([piece.score for piece in Model.FromString(tokenizer._model).pieces])
    own, other = tokenizer.encode(text), whole(tokenizer, text)
    assert own == other or np.isclose(scores[own].sum(), scores[other].sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "outside"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text() | pieces_of_text | st.sampled_from(TEXTS)))
def test_many_texts_are_as_one_at_a_time(kind: str, texts: list[str]) -> None:
    tokenizer = tokenizer_of(kind)
    ids, offsets = tokenizer.encode_to_array(texts)
    assert (ids.dtype, len(offsets), offsets[0]) == (np.int32, len(texts) + 1, 0)
    split = [ids[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
    assert split == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("kind", [*KINDS, "outside"])
@pytest.mark.parametrize(
    ("name", "value"), [("_SHORT_BYTES", 0), ("_BATCH_BYTES", 1000), ("_MAX_REMEMBERED", 20)]
)
def test_limits_change_nothing(
    kind: str, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(kind)
    expected = [tokenizer.encode(text) for text in TEXTS]
    monkeypatch.setattr(cached_encoder, name, value)
    again = Tokenizer(tokenizer._model)
    assert [again.encode(text) for text in TEXTS] == expected
    assert again.encode_batch(TEXTS) == expected
    assert again.encode_batch(TEXTS) == expected


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_encoder, "_MAX_REMEMBERED", 50)
    tokenizer = Tokenizer(tokenizer_of("bpe")._model)
    for number in range(200):
        tokenizer.encode(f"{number:b} {number} " + "é" * 1000)
        # More units than are remembered, in one batch.
        if number % 50 == 0:
            words = ("".join(word) for word in itertools.permutations("abcdef", 4))
            tokenizer.encode(f" {number}".join(words))
        units = tokenizer._units
        for remembered in (units._recent, units._older):
            assert len(remembered) <= 50
            assert max(map(len, remembered), default=0) <= 64


@pytest.mark.parametrize("kind", [*KINDS, "outside"])
def test_no_piece_has_a_cut_and_no_character_either(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    is_cut = tokenizer._units._is_cut.reshape(256, 256)
    texts = [tokenizer._bytes[id] for id in range(tokenizer.vocab_size)]
    for text in texts:
        assert not any(is_cut[pair] for pair in itertools.pairwise(text))
    assert not is_cut[:, 0x80:0xC0].any()


def test_text_with_words_is_cut_at_them() -> None:
    units = tokenizer_of("bpe")._units
    data = b"of the world, 1984\n\nof  it"
    starts = units._unit_starts(data, [0, len(data)]).tolist()
    cut = [data[start:stop].decode() for start, stop in itertools.pairwise(starts)]
    assert "".join(cut) == data.decode()
    assert {"of", " the", "1", "9"} <= set(cut)
