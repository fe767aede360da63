"""Filter by language: drop documents in other languages than the requested ones.

Built in: the script that most letters belong to, and in scripts that many languages share a vote
of small words (`stop_words.py`). With a fastText model of languages (such as lid.176.bin, which
is not part of jaxgpt) that model decides instead, as in FineWeb.

Axes: D documents, H stop words of any language, L languages, S scripts, W words.
"""

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.config import configclass
from jaxgpt.corpus.filters.stop_words import LANGUAGE_OF_SCRIPT, LANGUAGES, STOP_WORDS
from jaxgpt.corpus.text.batch import Judged, TextBatch
from jaxgpt.corpus.text.scripts import SCRIPTS
from jaxgpt.corpus.text.words import find_words, space_separated_words
from jaxgpt.errors import UsageError, did_you_mean

UNKNOWN = "unknown"
# A text that has fewer stop words of its language than these is hardly prose.
_MIN_STOP_WORD_SHARE = 0.05
_MIN_STOP_WORDS = 2
# Japanese writes more Han than Kana at times, Chinese no Kana at all.
_MIN_KANA_SHARE = 0.05


@configclass
class LanguageConfig:
    """Filter by language."""

    languages: tuple[str, ...] = ("en",)
    """Languages to keep, as ISO 639-1 codes, or as labels of the fastText model if there is one."""
    min_score: float = 0.65
    """Least certainty: with fastText its probability; built in, the share of the letters
    that are of the script, or of the small words that tell the two likeliest languages apart
    those that are of this one."""
    fasttext_model: str | None = None
    """Model file that decides in place of the built-in rules; needs the package fasttext."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score = {self.min_score}; it must lie in [0, 1]")
        if not self.languages:
            raise ValueError("languages = (); name at least one, or switch the gate off with None")
        if self.fasttext_model is None and (unknown := sorted(set(self.languages) - LANGUAGES)):
            raise ValueError(
                f"languages = {', '.join(unknown)}: not among the built-in ones "
                f"({', '.join(sorted(LANGUAGES))}){did_you_mean(unknown[0], LANGUAGES)}; others "
                "need fasttext_model"
            )

    @property
    def files_read(self) -> tuple[str, ...]:
        """Return the model file, if there is one."""
        return () if self.fasttext_model is None else (self.fasttext_model,)

    def build(self) -> "Language":
        """Return the step that applies the filter.

        Raises:
            UsageError: there is no such model, or the package that reads it is not installed.
        """
        if self.fasttext_model is not None:
            _load_fasttext(self.fasttext_model)
        return Language(self)


@dataclasses.dataclass(frozen=True)
class Language:
    """Rejects documents in other languages, and those whose language is uncertain."""

    config: LanguageConfig
    stage: str = "language"

    def __call__(self, batch: TextBatch) -> Judged:
        """Judge every document; none is edited."""
        if self.config.fasttext_model is None:
            guesses = guess_languages(batch)
        else:
            guesses = _ask_fasttext(batch, self.config.fasttext_model)
        return Judged(reasons=[self._judge(*guess) for guess in guesses])

    def _judge(self, language: str, score: float) -> str | None:
        if language == UNKNOWN or score < self.config.min_score:
            return "language_uncertain"
        return None if language in self.config.languages else f"language_{language}"


def guess_languages(batch: TextBatch) -> list[tuple[str, float]]:
    """Return the likeliest language of each document, and the certainty in [0, 1]."""
    letters_DS = batch.letters_DS.copy()
    # A Japanese text is one in Kana, whatever else it has.
    kana, han = SCRIPTS.index("Kana"), SCRIPTS.index("Han")
    both_D = letters_DS[:, kana] + letters_DS[:, han]
    is_japanese_D = letters_DS[:, kana] > _MIN_KANA_SHARE * both_D
    letters_DS[:, kana] = np.where(is_japanese_D, both_D, 0)
    letters_DS[:, han] = np.where(is_japanese_D, 0, both_D)
    script_D = letters_DS.argmax(1)
    share_D = letters_DS.max(1) / np.maximum(letters_DS.sum(1), 1)
    votes = _vote(batch)
    return [
        _decide(SCRIPTS[script], share, votes, document)
        for document, (script, share) in enumerate(
            zip(script_D.tolist(), share_D.tolist(), strict=True)
        )
    ]


@dataclasses.dataclass(frozen=True)
class _Votes:
    """Counts of stop words.

    Attributes:
        of_words_DH: float64, of each stop word in each document.
        of_languages_DL: float64, of all stop words of each language.
        num_words_D: words of all kinds.
    """

    of_words_DH: np.ndarray
    of_languages_DL: np.ndarray
    num_words_D: np.ndarray


def _vote(batch: TextBatch) -> _Votes:
    hashes, lists_HL, _ = _ballot()
    places, found = find_words(batch.words, hashes)
    document = np.searchsorted(batch.words.offsets_D1, places, side="right") - 1
    cells = document * len(hashes) + found
    times = np.bincount(cells, minlength=len(batch.texts) * len(hashes))
    # In floating point this is a fast product of matrices, and whole numbers stay exact.
    times_DH = times.reshape(len(batch.texts), len(hashes)).astype(np.float64)
    return _Votes(times_DH, times_DH @ lists_HL, batch.words.counts_D)


def _decide(script: str, share: float, votes: _Votes, document: int) -> tuple[str, float]:
    if share == 0:
        return UNKNOWN, 0.0
    if script in LANGUAGE_OF_SCRIPT:
        return LANGUAGE_OF_SCRIPT[script], share
    _, lists_HL, languages = _ballot()
    own = _languages_of(script)
    votes_L = votes.of_languages_DL[document, own]
    second, first = np.argsort(votes_L, kind="stable")[-2:]
    if votes_L[first] < max(_MIN_STOP_WORD_SHARE * votes.num_words_D[document], _MIN_STOP_WORDS):
        return UNKNOWN, 0.0
    # Words that both have, as neighbours do, tell nothing about which of the two it is.
    is_shared_H = lists_HL[:, own[first]] * lists_HL[:, own[second]]
    shared = votes.of_words_DH[document] @ is_shared_H
    total = votes_L[first] + votes_L[second] - 2 * shared
    score = float((votes_L[first] - shared) / total) if total else 0.5
    return languages[own[first]][1], score


@functools.cache
def _languages_of(script: str) -> np.ndarray:
    return np.array([n for n, (of_script, _) in enumerate(_ballot()[2]) if of_script == script])


@functools.cache
def _ballot() -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Return the ballot: hashes of all stop words, ascending; float64 [hashes, L], 1 where a
    language has the word; script and code of each language."""
    languages = [(script, code) for script, lists in STOP_WORDS.items() for code in lists]
    hashes_L = [
        space_separated_words([STOP_WORDS[script][code]]).hashes_W for script, code in languages
    ]
    hashes = np.unique(np.concatenate(hashes_L))
    lists_HL = np.stack([np.isin(hashes, own) for own in hashes_L], axis=1).astype(np.float64)
    return hashes, lists_HL, languages


def _ask_fasttext(batch: TextBatch, path: str) -> list[tuple[str, float]]:
    model = _load_fasttext(path)
    guesses = []
    for text in batch.texts:
        # The package's own `predict` breaks with numpy 2; what it calls does not.
        found = model.f.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")
        score, label = found[0] if found else (0.0, UNKNOWN)
        guesses.append((label.removeprefix("__label__"), min(float(score), 1.0)))
    return guesses


@functools.cache
def _load_fasttext(path: str) -> Any:
    if not Path(path).is_file():
        raise UsageError(
            f"--filters.language.fasttext-model {path}: no such file; it must be a language "
            "identification model, such as fastText's lid.176.bin"
        )
    try:
        fasttext = importlib.import_module("fasttext")
    except ImportError:
        raise UsageError(
            "--filters.language.fasttext-model needs the package fasttext, which is not "
            "installed: pip install fasttext; without a model, the built-in gate needs nothing"
        ) from None
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise UsageError(f"--filters.language.fasttext-model {path}: {error}") from None
