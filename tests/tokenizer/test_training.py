"""Training: the same vocabulary from the same texts, of the size asked for, that learns layout."""

import random
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import BadInputError, ConfigError
from jaxgpt.tokenizer import training as tokenizer_training
from jaxgpt.tokenizer.sentencepiece_model import Model
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import (
    NUM_FIXED_PIECES,
    Kind,
    TokenizerConfig,
    count_words,
    sample_texts,
    train_tokenizer,
)
from tests.languages import LANGUAGES
from tests.tiny import make_texts

KINDS: tuple[Kind, ...] = ("bpe", "unigram", "char")


def pieces(tokenizer: Tokenizer) -> list[str]:
    """The text of every id that is neither a control token nor a byte."""
    return [tokenizer.decode([id]) for id in range(NUM_FIXED_PIECES, tokenizer.vocab_size)]


def standard_library(num_files: int) -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.py"))[:num_files]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample_bytes", [2**20, 20_000])
def test_the_order_of_texts_does_not_matter(kind: Kind, sample_bytes: int) -> None:
    texts = make_texts(300, seed=1)
    shuffled = random.Random(0).sample(texts, len(texts))
    assert shuffled != texts
    config = TokenizerConfig(kind=kind, vocab_size=350, sample_bytes=sample_bytes)
    fingerprint = train_tokenizer(texts, config).fingerprint
    assert train_tokenizer(shuffled, config).fingerprint == fingerprint
    assert train_tokenizer(iter(texts), config).fingerprint == fingerprint


def test_the_seed_chooses_the_sample() -> None:
    texts = standard_library(20)
    vocabularies = {
        seed: train_tokenizer(
            texts, TokenizerConfig(vocab_size=600, sample_bytes=50_000, seed=seed)
        ).fingerprint
        for seed in (0, 1)
    }
    assert vocabularies[0] != vocabularies[1]


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text("ab\né", max_size=40), max_size=30),
    max_bytes=st.integers(1, 600),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_a_sample_is_bounded_and_free_of_order(
    texts: list[str], max_bytes: int, seed: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_training, "_CHUNK_CHARACTERS", 7)
        sample = sample_texts(texts, max_bytes, seed)
        again = sample_texts(data.draw(st.permutations(texts)), max_bytes, seed)
    assert sample == again
    num_bytes = sum(len(chunk.encode()) for chunk in sample)
    total = sum(len(text.encode()) for text in texts)
    assert num_bytes == total if total < max_bytes else max_bytes <= num_bytes < max_bytes + 14
    assert all(any(chunk in text for text in texts) for chunk in sample)


def test_a_sample_is_drawn_from_all_texts_alike() -> None:
    texts = [f"text number {number:04d}\n" for number in range(1000)]
    sample = sample_texts(texts, 10_000, seed=0)
    quarters = Counter(int(text.split()[-1]) // 250 for text in sample)
    # 526 of 1000 are drawn: 132 of each quarter, with a standard deviation of 7.
    assert all(quarters[quarter] == pytest.approx(132, abs=35) for quarter in range(4))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_vocabulary_has_the_size_asked_for(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=777)
    assert train_tokenizer(standard_library(10), config).vocab_size == 777
    assert not caplog.records


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_the_text_cannot_support_is_lowered(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        tokenizer = train_tokenizer(["hello hello\n"], TokenizerConfig(kind=kind, vocab_size=5000))
    assert NUM_FIXED_PIECES + len(set("hello \n")) <= tokenizer.vocab_size < 300
    assert f"using {tokenizer.vocab_size}" in caplog.text
    assert "5000" in caplog.text
    # The characters of a text are no surprise; fewer pieces than asked for are.
    assert caplog.records[0].levelname == ("INFO" if kind == "char" else "WARNING")


def test_characters_are_all_there_or_the_most_frequent() -> None:
    texts = ["aaaa bbb cc\t\n", "日本語 日本 日"]
    seen = set("".join(texts))
    everything = train_tokenizer(texts, TokenizerConfig(kind="char", vocab_size=1000))
    assert set(pieces(everything)) == seen
    assert len(pieces(everything)) == len(seen)
    # The space comes four times, as "a" does; "b", "日" follow with three.
    few = train_tokenizer(texts, TokenizerConfig(kind="char", vocab_size=NUM_FIXED_PIECES + 4))
    assert set(pieces(few)) == {" ", "a", "b", "日"}


@pytest.mark.parametrize("kind", KINDS)
def test_more_characters_than_ids_leave_room_for_words(kind: Kind) -> None:
    """SentencePiece alone refuses this; thousands of Chinese characters do it."""
    ideographs = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    texts = [*standard_library(3), ideographs]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=600))
    assert tokenizer.vocab_size == 600
    assert tokenizer.decode(tokenizer.encode(ideographs)) == ideographs
    if kind != "char":
        assert sum(len(piece) > 1 for piece in pieces(tokenizer)) >= 150


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_line_ends_and_indentation_become_single_ids(kind: Kind) -> None:
    tokenizer = train_tokenizer(standard_library(40), TokenizerConfig(kind=kind, vocab_size=2000))
    for layout in ("\n    ", "\n        ", "\n            ", ":\n        ", "\n\n\n"):
        assert len(tokenizer.encode(layout)) == 1, layout
    cut = [tokenizer.decode([id]) for id in tokenizer.encode("x = f()\n        return x")]
    assert cut[-3].endswith("\n        ")
    assert cut[-2:] == ["return", " x"]


def test_layout_is_worth_its_ids() -> None:
    """Against the same pieces learned line by line, as SentencePiece does by itself."""
    texts = standard_library(60)
    held_out, training = texts[::6], [text for i, text in enumerate(texts) if i % 6]
    own = train_tokenizer(training, TokenizerConfig(vocab_size=2000))
    by_line = train_tokenizer(
        (line for text in training for line in text.split("\n")), TokenizerConfig(vocab_size=2000)
    )
    lengths = [sum(len(t.encode(text)) for text in held_out) for t in (own, by_line)]
    assert lengths[0] < 0.9 * lengths[1]


def test_tabs_are_learned() -> None:
    texts = [f"func f{n}() {{\n\tif x {{\n\t\treturn\n\t}}\n}}\n" for n in range(9)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=400))
    assert len(tokenizer.encode("\n\t\t")) == 1


@pytest.mark.parametrize(
    "reserved", ["\u2581", "\u2585", "\0", "\t", "\U000e01ee", "\U000e01ef", "\ud800", "<s>"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_sentencepiece_reserves_costs_no_text(kind: Kind, reserved: str) -> None:
    text = f"reading{reserved}writing {reserved} reading\nwriting{reserved}"
    tokenizer = train_tokenizer([text] * 3, TokenizerConfig(kind=kind, vocab_size=400))
    learned = set("".join(pieces(tokenizer)))
    assert learned >= set("readingwriting \n")
    if kind == "bpe":
        assert len(tokenizer.encode("reading")) == len(tokenizer.encode("writing")) == 1


def test_a_line_without_an_end_is_learned_from() -> None:
    text = "".join(random.Random(0).choices("abcdefgh", k=300_000))
    tokenizer = train_tokenizer([text], TokenizerConfig(vocab_size=600))
    assert tokenizer.vocab_size == 600
    assert count_words([text]).total() == 300


def test_different_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["often " * 50, *(f"rare{number:04d} " for number in range(1000))]
    shuffled = random.Random(0).sample(texts, len(texts))
    monkeypatch.setattr(tokenizer_training, "_MAX_TRAINING_CHARACTERS", 800)
    kept, again = (tokenizer_training._bound(count_words(t)) for t in (texts, shuffled))
    assert kept == again
    assert sum(map(len, kept)) == pytest.approx(800, abs=10)
    assert kept[" often"] == 49
    # Of the rare ones some of all kinds, and not the first ones of the alphabet.
    assert {word[5] for word in kept if word.startswith("rare")} == set("0123456789")
    monkeypatch.undo()
    assert tokenizer_training._bound(count_words(texts)) == count_words(texts)


@settings(max_examples=100, deadline=None)
@given(st.text("ab_.(é漢 \n\t\r7\u2581\u2585\0"))
def test_words_are_the_text_cut_up(text: str) -> None:
    kept = [character for character in text if character not in "\u2581\u2585\0"]
    words = count_words([text])
    assert Counter("".join(words.elements())) == Counter(kept)
    # No word goes on after a space that follows a word, nor with a letter after a line's end.
    for word in words:
        assert not tokenizer_training.re.search(r"(?<=\S)(?= )|(?<=\n)(?=\w)", word)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], ["", ""], ["\0\u2581"]])
def test_no_text_is_bad_input(kind: Kind, texts: list[str]) -> None:
    with pytest.raises(BadInputError, match="no text to train a tokenizer on"):
        train_tokenizer(texts, TokenizerConfig(kind=kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a", "\t", " ", "\n", "é", "0", "\ud800x"])
def test_one_character_is_enough(kind: Kind, text: str) -> None:
    tokenizer = train_tokenizer([text], TokenizerConfig(kind=kind))
    assert pieces(tokenizer) == [text[-1]]


def test_pieces_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    """SentencePiece's unigram trainer gives other pieces on two threads than on one."""
    tokenizer = train_tokenizer(["text"], TokenizerConfig(kind="unigram"))
    model = Model.FromString(tokenizer.save(tmp_path).read_bytes())
    assert model.trainer_spec.num_threads == 1


def test_training_is_silent(capfd: pytest.CaptureFixture) -> None:
    train_tokenizer(LANGUAGES.values(), TokenizerConfig(vocab_size=1000))
    assert capfd.readouterr() == ("", "")


def test_what_sentencepiece_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: object) -> None:
        raise RuntimeError("INTERNAL: out of\nluck")

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", refuse)
    with pytest.raises(ConfigError, match="bpe vocabulary of 300: INTERNAL: out of luck"):
        train_tokenizer(["text"], TokenizerConfig(vocab_size=300))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "word", "'bpe', 'unigram' or 'char'"),
        ("vocab_size", NUM_FIXED_PIECES, "must be more than 264"),
        ("vocab_size", 2**21, "at most 1048576"),
        ("character_coverage", 0.5, "between 0.9 and 1.0"),
        ("max_piece_length", 0, "between 1 and 512"),
        ("sample_bytes", 0, "at least 1"),
        ("seed", -1, "from 0"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        TokenizerConfig(**{field: value})  # type: ignore[arg-type]
    assert message in str(caught.value)
