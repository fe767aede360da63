"""The vocabulary for tiktoken: of the size asked for, and without loss."""

import pytest

from jaxgpt.benchmarks.peers.tiktoken_bpe import _byte_of_character, train_tiktoken
from tests.languages import AWKWARD, LANGUAGES


def test_every_byte_has_a_character_of_its_own() -> None:
    byte_of = _byte_of_character()
    assert sorted(byte_of.values()) == list(range(256))
    assert (byte_of["Ġ"], byte_of["Ċ"], byte_of["a"]) == (0x20, 0x0A, ord("a"))


def test_any_text_survives_and_merges_are_used() -> None:
    pytest.importorskip("tiktoken", reason="an extra: pip install -e '.[benchmark]'")
    pytest.importorskip("tokenizers", reason="an extra: pip install -e '.[benchmark]'")
    encoding = train_tiktoken(LANGUAGES.values(), 600)
    assert encoding.n_vocab == 600
    for text in [*LANGUAGES.values(), *AWKWARD.values()]:
        ids = encoding.encode_ordinary(text)
        assert encoding.decode(ids) == text
    english = LANGUAGES["English"]
    assert len(encoding.encode_ordinary(english)) < len(english)
