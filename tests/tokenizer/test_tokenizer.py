"""What every tokenizer promises: no loss, control tokens out of reach of text, files checked."""

import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import BadInputError, MismatchError, UsageError
from jaxgpt.tokenizer.sentencepiece_model import CONTROL_PIECES, Model, PieceType
from jaxgpt.tokenizer.tokenizer import FILE_NAME, MAX_FILE_BYTES, StreamDecoder, Tokenizer
from jaxgpt.tokenizer.training import Kind, TokenizerConfig, train_tokenizer
from tests.languages import AWKWARD, LANGUAGES

KINDS: tuple[Kind, ...] = ("bpe", "unigram", "char")
CODE = Path(__file__).read_text("utf-8")
_trained: dict[Kind, Tokenizer] = {}


def tokenizer_of(kind: Kind) -> Tokenizer:
    """A tokenizer that knows some languages and some code, and nothing of the others."""
    if kind not in _trained:
        texts = [*list(LANGUAGES.values())[::2], CODE]
        _trained[kind] = train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=1000))
    return _trained[kind]


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(request.param)


def model_of(tokenizer: Tokenizer, folder: Path) -> bytes:
    return tokenizer.save(folder).read_bytes()


def assert_kept(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.bytes_per_token[ids].sum() == len(text.encode())
    assert not set(ids) & set(tokenizer.special_ids.values())


# Whatever is special to SentencePiece, to this code or to UTF-8, next to each other.
awkward_text = st.lists(
    st.sampled_from(
        [
            *"a Zß é漢🙂\t\n\r\0\u2581\u2585\U000e01ee\ufffd7_(",
            *CONTROL_PIECES.values(),
            *("  ", "\n    ", "\n\t", "<0x0A>", "the", " self"),
        ]
    )
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_without_a_space_keeps_spaces(kind: Kind) -> None:
    tokenizer = train_tokenizer(["first", "second"], TokenizerConfig(kind=kind, vocab_size=400))
    for text in ("5 ", " ", "first  second\u2581 ", "a b\nc"):
        assert_kept(tokenizer, text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(text=st.text() | awkward_text)
def test_any_text_survives(kind: Kind, text: str) -> None:
    assert_kept(tokenizer_of(kind), text)


@pytest.mark.parametrize("name", [*LANGUAGES, *AWKWARD])
def test_languages_and_awkward_text_survive(tokenizer: Tokenizer, name: str) -> None:
    assert_kept(tokenizer, {**LANGUAGES, **AWKWARD}[name])


def test_every_character_survives(tokenizer: Tokenizer) -> None:
    # Beyond the first plane, where most is unassigned, every 17th.
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, sys.maxunicode + 1, 17)]
    characters = [chr(code) for code in codes]
    assert_kept(tokenizer, "".join(characters))
    assert_kept(tokenizer, " x".join(characters))


def test_real_text_survives(tokenizer: Tokenizer, shared_data: Path) -> None:
    for path in sorted((shared_data / "raw_text" / "kubernetes-i18n").rglob("*.*")):
        assert_kept(tokenizer, path.read_bytes().decode("utf-8", "replace"))


@pytest.mark.parametrize("piece", CONTROL_PIECES.values())
def test_text_cannot_write_a_control_token(tokenizer: Tokenizer, piece: str) -> None:
    ids = tokenizer.encode(f"before{piece} {piece}\n{piece}{piece}after")
    assert not set(ids) & set(tokenizer.special_ids.values())


def test_control_tokens_have_fixed_ids_and_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_ids == {
        "pad": 0, "unk": 1, "bos": 2, "eos": 3, "system": 4, "user": 5, "assistant": 6, "end": 7
    }  # fmt: skip
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id] == [0, 1, 2, 3]
    ids = [2, *tokenizer.encode("one"), 7, 5, *tokenizer.encode("two"), 3, 0, 0]
    assert tokenizer.decode(ids) == "onetwo"
    assert not tokenizer.bytes_per_token[:8].any()
    assert tokenizer.bytes_per_token[8:].all()
    assert tokenizer.bytes_per_token.dtype == np.int32
    assert len(tokenizer.bytes_per_token) == tokenizer.vocab_size


@pytest.mark.parametrize("text", ["\ud800", "fine, then \udc80 not", "a\u2581b\udfff"])
def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(BadInputError, match=r"lone surrogate U\+D"):
        tokenizer.encode(text)


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_of_the_vocabulary_is_refused(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"token id {wrong} is outside 0.."):
        tokenizer.decode([10, wrong])


def test_batches_and_arrays_are_as_single_texts_and_lists(tokenizer: Tokenizer) -> None:
    texts = list(AWKWARD.values())
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    for text in texts:
        assert tokenizer.decode(np.array(tokenizer.encode(text), dtype=np.uint16)) == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_stream_of_any_ids_adds_up_to_their_text(kind: Kind, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    # Half of the ids are single bytes: most sequences of them are no text.
    ids = st.integers(0, tokenizer.vocab_size - 1) | st.integers(8, 263)
    chunks = data.draw(st.lists(st.lists(ids, max_size=4)))
    decoder = StreamDecoder(tokenizer)
    text = "".join(decoder.feed(chunk) for chunk in chunks) + decoder.flush()
    assert text == tokenizer.decode([id for chunk in chunks for id in chunk])


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_stream_never_shows_half_a_character(tokenizer: Tokenizer, name: str) -> None:
    text = LANGUAGES[name]
    decoder = StreamDecoder(tokenizer)
    shown = ""
    for id in tokenizer.encode(text):
        shown += decoder.feed([id])
        assert text.startswith(shown)
    assert (shown, decoder.flush()) == (text, "")


def test_pieces_that_span_units_are_used(tmp_path: Path) -> None:
    proto = Model.FromString(model_of(tokenizer_of("bpe"), tmp_path))
    longest = max(proto.pieces, key=lambda piece: len(piece.piece))
    longest.piece, longest.type = "of\u2581the\u2581world", PieceType.USER_DEFINED
    tokenizer = Tokenizer(proto.SerializeToString())
    assert len(tokenizer.encode("of the world")) == 1
    assert_kept(tokenizer, "the end of the world\nis near")


def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tokenizer.save(tmp_path / "dataset" / "tokenizer")
    for path in (file, file.parent, tmp_path / "dataset", str(file)):
        again = Tokenizer.load(path)
        assert again.describe() == tokenizer.describe()
        assert again.encode(CODE) == tokenizer.encode(CODE)


def test_the_fingerprint_is_of_the_vocabulary_and_not_of_the_file(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bpe")
    model = model_of(tokenizer, tmp_path)
    proto = Model.FromString(model)
    proto.trainer_spec.num_threads = 7
    assert Tokenizer(proto.SerializeToString()).fingerprint == tokenizer.fingerprint
    changes = []
    for change in ("piece", "score", "type", "model_type"):
        proto = Model.FromString(model)
        match change:
            case "piece":
                proto.pieces[-1].piece += "x"
            case "score":
                proto.pieces[-1].score += 1
            case "type":
                proto.pieces[-1].type = PieceType.USER_DEFINED
            case "model_type":
                proto.trainer_spec.model_type = 1
        changes.append(Tokenizer(proto.SerializeToString()).fingerprint)
    assert len({tokenizer.fingerprint, *changes}) == 5


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer at .*absent: it does not exist"):
        Tokenizer.load(tmp_path / "absent")
    with pytest.raises(MismatchError, match=f"holds no tokenizer: expected {FILE_NAME}"):
        Tokenizer.load(tmp_path)


@settings(max_examples=50, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_garbage_is_no_tokenizer(garbage: bytes) -> None:
    with pytest.raises(MismatchError, match="not a"):
        Tokenizer(garbage)


def test_a_damaged_file_is_refused_with_its_name_or_reads_the_same(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("char")
    file = tokenizer.save(tmp_path)
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(MismatchError, match=str(file)):
            Tokenizer.load(file)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_model_with_other_bytes_is_refused_or_works(data: st.DataObject) -> None:
    model = bytearray(tokenizer_of("char")._model)
    for _ in range(data.draw(st.integers(1, 3))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    try:
        tokenizer = Tokenizer(bytes(model))
    except MismatchError:
        return
    for text in LANGUAGES.values():
        tokenizer.decode(tokenizer.encode(text))


def test_a_file_too_large_for_a_tokenizer_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    with file.open("wb") as handle:
        handle.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(MismatchError, match="a tokenizer has at most"):
        Tokenizer.load(file)


LOSSLESS = {
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "byte_fallback": True,
    "pad_id": 3,
    "control_symbols": list(CONTROL_PIECES.values())[4:],
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "it normalises text (nmt_nfkc)"),
        ({"add_dummy_prefix": True}, "it adds or removes spaces"),
        ({"remove_extra_whitespaces": True}, "it adds or removes spaces"),
        ({"byte_fallback": False}, "it has no byte fallback"),
        ({"pad_id": -1}, "it lacks <pad>"),
        ({"control_symbols": ["<|user|>"]}, "it lacks <|system|>, <|assistant|>, <|end|>"),
        (
            {"control_symbols": [], "user_defined_symbols": LOSSLESS["control_symbols"]},
            "its control tokens can be written in text",
        ),
        ({"model_type": "word"}, "it cuts text into words"),
        ({}, None),
    ],
)
def test_a_vocabulary_that_would_lose_text_is_refused(
    changes: dict, problem: str | None, tmp_path: Path
) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to learn from"] * 3),
        model_prefix=str(tmp_path / "foreign"),
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **{**LOSSLESS, **changes},
    )
    if problem is None:
        assert_kept(Tokenizer.load(tmp_path / "foreign.model"), CODE)
        return
    with pytest.raises(MismatchError, match="not a tokenizer of jaxgpt") as caught:
        Tokenizer.load(tmp_path / "foreign.model")
    assert problem in str(caught.value)
