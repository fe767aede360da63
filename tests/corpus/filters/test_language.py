"""The language gate: right about languages it lists, uncertain about what is no language."""

import itertools
import sys
import types

import pytest

from jaxgpt.corpus.filters.language import UNKNOWN, LanguageConfig, guess_languages
from jaxgpt.corpus.filters.stop_words import LANGUAGE_OF_SCRIPT, LANGUAGES, STOP_WORDS
from jaxgpt.corpus.text.batch import TextBatch
from jaxgpt.corpus.text.scripts import BLOCKS, UNSPACED
from jaxgpt.errors import ConfigError, UsageError
from tests.corpus.filters.prose import PROSE
from tests.languages import LANGUAGES as SAMPLES

UNIQUE_SCRIPTS = {
    "Armenian": "hy", "Bengali": "bn", "Chinese": "zh", "Georgian": "ka", "Greek": "el",
    "Hebrew": "he", "Japanese": "ja", "Khmer": "km", "Korean": "ko", "Tamil": "ta", "Thai": "th",
    "Persian": "fa", "Hindi": "hi",
}  # fmt: skip


def guess(*texts: str) -> list[tuple[str, float]]:
    return guess_languages(TextBatch(texts=texts, urls=[""] * len(texts)))


def judge(config: LanguageConfig, *texts: str) -> list[str | None]:
    return list(config.build()(TextBatch(texts=texts, urls=[""] * len(texts))).reasons)


@pytest.mark.parametrize("language", PROSE)
def test_prose_is_recognised_and_its_gate_opens_for_it_alone(language):
    [(guessed, score)] = guess(PROSE[language])
    assert (guessed, score >= 0.65) == (language, True)
    assert judge(LanguageConfig(languages=(language,)), PROSE[language]) == [None]
    other = "fr" if language != "fr" else "de"
    assert judge(LanguageConfig(languages=(other,)), PROSE[language]) == [f"language_{language}"]


@pytest.mark.parametrize("name", UNIQUE_SCRIPTS)
def test_a_sentence_is_enough_where_the_script_tells(name):
    [(guessed, score)] = guess(SAMPLES[name])
    assert (guessed, score > 0.8) == (UNIQUE_SCRIPTS[name], True)


@pytest.mark.parametrize("text", ["", "12 + 30 = 42", "x = foo(bar); y = baz[x]", "Lorem ipsum"])
def test_what_is_no_prose_is_uncertain(text):
    assert guess(text) == [(UNKNOWN, 0.0)]
    assert judge(LanguageConfig(), text) == ["language_uncertain"]


def test_neighbours_of_a_document_in_its_batch_do_not_matter():
    texts = [*PROSE.values(), "", *SAMPLES.values()]
    assert guess(*texts) == [guess(text)[0] for text in texts]


def test_a_mixed_text_has_a_low_score():
    [(language, score)] = guess(PROSE["en"] + " " + PROSE["de"])
    assert language in ("en", "de")
    assert score < 0.75
    assert judge(LanguageConfig(min_score=0.75), PROSE["en"] + PROSE["de"]) == [
        "language_uncertain"
    ]


def test_the_tables_are_sound():
    assert len(LANGUAGES) >= 45
    for script, lists in STOP_WORDS.items():
        assert script in BLOCKS
        assert len(lists) >= 2, f"{script} has one language; it belongs in LANGUAGE_OF_SCRIPT"
        for language, words in lists.items():
            assert len(set(words.split())) >= 20, language
            assert words == words.lower()
    assert set(LANGUAGE_OF_SCRIPT) | set(STOP_WORDS) == set(BLOCKS)
    assert set(UNSPACED) <= set(BLOCKS)
    spans = sorted(span for blocks in BLOCKS.values() for span in blocks)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


def test_an_unknown_language_is_refused_with_those_known():
    with pytest.raises(ConfigError, match=r"tlh: not among the built-in ones \(am, ar"):
        LanguageConfig(languages=("en", "tlh"))
    with pytest.raises(ConfigError, match="name at least one"):
        LanguageConfig(languages=())
    assert LanguageConfig(languages=("tlh",), fasttext_model="x.bin").files_read == ("x.bin",)


def test_a_model_or_package_that_is_absent_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"no/lid\.bin: no such file"):
        LanguageConfig(fasttext_model="no/lid.bin").build()
    model = tmp_path / "lid.bin"
    model.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(UsageError, match="needs the package fasttext"):
        LanguageConfig(fasttext_model=str(model)).build()


def test_a_fasttext_model_decides_where_one_is_given(tmp_path, monkeypatch):
    def predict(text, num, threshold, on_error):
        assert "\n" not in text[:-1]
        return [(0.9, "__label__en")] if "the" in text else [(0.4, "__label__de")]

    model = types.SimpleNamespace(f=types.SimpleNamespace(predict=predict))
    fake = types.SimpleNamespace(load_model=lambda path: model)
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    path = tmp_path / "lid.bin"
    path.write_bytes(b"")
    sure = LanguageConfig(fasttext_model=str(path))
    assert judge(sure, "the\ncat", "die Katze") == [None, "language_uncertain"]
    unsure = LanguageConfig(fasttext_model=str(path), min_score=0.3)
    assert judge(unsure, "the\ncat", "die Katze") == [None, "language_de"]
