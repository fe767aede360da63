"""WikiText (Merity et al. 2016, arXiv:1609.07843): perplexity of whole articles, by word and byte.

The articles are scored without the spaces and marks of the data set's own tokenisation; words and
bytes are counted before these are removed, as lm-evaluation-harness does.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.evaluation.scoring import Score, Scorer
from jaxgpt.evaluation.statistics import Bits, Metric, Perplexity
from jaxgpt.evaluation.tasks.task import Item, Measured, Task, text_field

_HEADING = re.compile(r"^ = [^=\n].*[^=\n] = $", re.MULTILINE)
# Applied in this order; those of one character or more come before the marks of headings.
_JOINED = (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")
_PUNCTUATION = [(f" {mark} ", f"{mark} ") for mark in ":;.!?,"]
_PAIRS = [
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
]
_REST = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


@configclass
class WikiText(Task):
    """Perplexity of articles; the file is the data set's text, or has rows with `page`."""

    @property
    def form(self) -> str:
        return "whole documents, in windows without overlap"

    @property
    def takes_examples(self) -> bool:
        return False

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "word_perplexity": Perplexity("words"),
            "byte_perplexity": Perplexity("UTF-8 bytes"),
            "bits_per_byte": Bits("UTF-8 bytes"),
        }

    def read_file(self, path: str | Path) -> Iterator[tuple[int, Any]]:
        if Path(path).suffix.lower() != ".txt":
            yield from super().read_file(path)
            return
        text = _read_text(path)
        starts = [match.start() for match in _HEADING.finditer(text)]
        for start, stop in itertools.pairwise([0, *starts[1:], len(text)]):
            if page := text[start:stop].strip("\n"):
                yield text.count("\n", 0, start) + 1, {"page": page}

    def read(self, row: Any) -> Item:
        return Item((), "", text_field(row, "page"))

    def score(
        self, scorer: Scorer, items: Sequence[Item], prefixes: Sequence[str]
    ) -> list[list[Score]]:
        texts = [_as_written(item.gold) for item in items]
        return [[score] for score in scorer.score_documents(texts)]

    def measure(self, item: Item, scores: Sequence[Score]) -> dict[str, Measured]:
        (score,) = scores
        num_words = len(re.split(r"\s+", item.gold))
        num_bytes = len(item.gold.encode("utf-8"))
        return {
            "word_perplexity": Measured(score.log_likelihood, num_words),
            "byte_perplexity": Measured(score.log_likelihood, num_bytes),
            "bits_per_byte": Measured(score.log_likelihood, num_bytes),
        }


def _read_text(path: str | Path) -> str:
    if not Path(path).is_file():
        raise UsageError(f"no evaluation file at {path}")
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8: {error}; convert it") from None


def _as_written(page: str) -> str:
    """Return an article as a person would write it."""
    text = page.replace("s '", "s'")
    for old, new in (*_JOINED, *_PUNCTUATION):
        text = text.replace(old, new)
    for pattern, new in _PAIRS:
        text = re.sub(pattern, new, text)
    for old, new in _REST:
        text = text.replace(old, new)
    return text
