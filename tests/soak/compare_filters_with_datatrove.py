"""Verdicts and speed of the filters beside datatrove's, on the same documents in one run.

    python -m venv environment && environment/bin/pip install 'datatrove[processing]==0.10.1'
    environment/bin/pip install -e .
    environment/bin/python tests/soak/compare_filters_with_datatrove.py CORPUS.jsonl.zst...

datatrove splits words with spaCy and sentences with its rules by default; here both sides split
words at white space, and datatrove gets the sentences that our rule finds, so that what is
compared are the rules. C4 is compared by verdict and by edited text. Speed is measured in turns,
one side after the other; the ratio is of medians.
"""

import collections
import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import datatrove.utils.word_tokenizers
import zstandard
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

from jaxgpt.corpus.cleaning.repair import RepairConfig, repair
from jaxgpt.corpus.filters import c4
from jaxgpt.corpus.filters.config import with_profile
from jaxgpt.corpus.text.batch import TextBatch

DOCUMENT_CHARACTERS = 2700
MAX_PIECES = 8
NUM_TURNS = 5
BATCH = 512
SECTIONS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")


class WhiteSpace:
    """A word tokenizer of datatrove's kind."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        ends = [match.end() for match in c4._SENTENCE_END.finditer(text)]
        return list(zip([0, *ends], [*ends, len(text)], strict=True))


def read_documents(paths: Sequence[str]) -> Iterator[str]:
    """Pieces of about 2,700 characters, whole lines, some of every record."""
    for path in paths:
        open_packed = gzip.open if path.endswith(".gz") else zstandard.open
        with open_packed(path, "rt", encoding="utf-8") as file:
            for line in file:
                text, start = repair(json.loads(line)["text"], RepairConfig()).text, 0
                for _ in range(MAX_PIECES):
                    end = text.find("\n", start + DOCUMENT_CHARACTERS)
                    piece = text[start : end if end >= 0 else len(text)]
                    if piece.strip():
                        yield piece
                    if end < 0:
                        break
                    start = end + 1


def ask_datatrove(texts: Sequence[str], rule_set) -> tuple[list[str | None], list[str]]:
    """Reasons and texts after the filter."""
    reasons: list[str | None] = []
    edited = []
    for text in texts:
        document = Document(text=text, id="")
        verdict = rule_set.filter(document)
        reasons.append(None if verdict is True else verdict[1])
        edited.append(document.text)
    return reasons, edited


def ask_jaxgpt(texts: Sequence[str], step) -> tuple[list[str | None], list[str]]:
    reasons: list[str | None] = []
    edited: list[str] = []
    for first in range(0, len(texts), BATCH):
        some = texts[first : first + BATCH]
        judged = step(TextBatch(texts=some, urls=[""] * len(some)))
        reasons += judged.reasons
        edited += some if judged.texts is None else judged.texts
    return reasons, edited


def compare(name: str, texts: Sequence[str], theirs, ours) -> None:
    """Print how often both say the same, and examples of where they do not."""
    their_reasons, their_texts = ask_datatrove(texts, theirs)
    our_reasons, our_texts = ask_jaxgpt(texts, ours)
    pairs: collections.Counter[tuple[str | None, str | None]] = collections.Counter()
    num_same = num_same_text = num_both_keep = 0
    for text, their, our, their_text, our_text in zip(
        texts, their_reasons, our_reasons, their_texts, our_texts, strict=True
    ):
        num_same += (their is None) == (our is None)
        if their is None and our is None:
            num_both_keep += 1
            num_same_text += their_text == our_text
        if (their is None) != (our is None):
            pairs[their, our] += 1
            if pairs[their, our] <= 2:
                print(f"  {name}: datatrove {their}, jaxgpt {our}: {text[:300]!r}")
    print(
        f"{name}: {len(texts)} documents, {sum(map(bool, their_reasons))} rejected by datatrove, "
        f"{sum(map(bool, our_reasons))} by jaxgpt; same verdict {num_same / len(texts):.4%}, "
        f"same text {num_same_text} of {num_both_keep}; {dict(pairs)}"
    )


def measure(name: str, ask: dict[str, Callable[[], object]], num_documents: int) -> None:
    """Print documents a second of both, run in turns."""
    seconds: dict[str, list[float]] = {side: [] for side in ask}
    for _ in range(NUM_TURNS):
        for side, run in ask.items():
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    rates = {side: round(num_documents / value) for side, value in medians.items()}
    print(f"{name}: documents/s {rates}, ratio {medians['datatrove'] / medians['jaxgpt']:.1f}")


def _run_all_datatrove(texts: Sequence[str], rule_sets: Sequence) -> None:
    for text in texts:
        document = Document(text=text, id="")
        all(rule_set.filter(document) is True for rule_set in rule_sets)


def _run_all_jaxgpt(texts: Sequence[str], steps: Sequence) -> None:
    for first in range(0, len(texts), BATCH):
        some = texts[first : first + BATCH]
        batch = TextBatch(texts=some, urls=[""] * len(some))
        for step in steps:
            judged = step(batch)
            rows = [row for row, reason in enumerate(judged.reasons) if reason is None]
            edited = judged.texts
            if edited is None:
                batch = batch.select(rows)
            else:
                batch = TextBatch(texts=[edited[row] for row in rows], urls=[""] * len(rows))


def main(paths: Sequence[str]) -> None:
    datatrove.utils.word_tokenizers.load_word_tokenizer = lambda language: WhiteSpace()
    texts = list(read_documents(paths))
    theirs = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }
    profile = with_profile("web-en")
    ours = {name: getattr(profile, name).build() for name in SECTIONS}
    for name in SECTIONS:
        compare(name, texts, theirs[name], ours[name])
    for name in SECTIONS:
        asks = {
            "datatrove": lambda name=name: ask_datatrove(texts, theirs[name]),
            "jaxgpt": lambda name=name: ask_jaxgpt(texts, ours[name]),
        }
        measure(name, asks, len(texts))
    asks = {
        "datatrove": lambda: _run_all_datatrove(texts, list(theirs.values())),
        "jaxgpt": lambda: _run_all_jaxgpt(texts, list(ours.values())),
    }
    measure("all four, rejected documents leaving", asks, len(texts))


if __name__ == "__main__":
    main(sys.argv[1:])
