"""`jaxgpt order-examples --input PATH... --output FILE`: text -> sentences, some out of order."""

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxgpt.command_line import parse_options, require_at_least, require_seed
from jaxgpt.corpus.iterate import read_documents
from jaxgpt.corpus.readers.sources import SourcesConfig, find_inputs
from jaxgpt.errors import BadInputError, UsageError
from jaxgpt.storage.durable import write_atomically

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
# Words of letters and one mark at the end: a mark inside would move with its word.
_PLAIN = re.compile(r"[A-Z][a-z]*(?: [A-Za-z]+)+[.!?]")


@dataclass(frozen=True, kw_only=True)
class OrderExamplesOptions:
    """Make examples of a classifier: sentences as they were written, and others whose inner words
    are shuffled. Both kinds have the same words."""

    input: tuple[str, ...]
    """Files, folders (with all below) and globs of text, as for tools/build_dataset.py."""
    output: Path
    """File to write, one JSON object a line: text, and label written or shuffled."""
    num_examples: int = 10_000
    """Most examples, from the beginning of the text."""
    min_words: int = 8
    """Fewest words of a sentence."""
    max_words: int = 20
    """Most words of a sentence."""
    seed: int = 0
    """Seed of the orders."""
    sources: SourcesConfig = field(default_factory=SourcesConfig)


def main(argv: Sequence[str]) -> None:
    """Parse, read, write."""
    options = parse_options(OrderExamplesOptions, argv, prog="jaxgpt order-examples")
    require_at_least(options, num_examples=2, min_words=4)
    require_seed(options.seed)
    if options.max_words < options.min_words:
        raise UsageError(f"--max-words {options.max_words} is less than --min-words")
    rows = list(itertools.islice(_make_rows(options), options.num_examples))
    if len(rows) < 2:
        raise BadInputError(
            f"--input {' '.join(options.input)}: fewer than 2 sentences of {options.min_words} to "
            f"{options.max_words} plain words; give more text, or other limits"
        )
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output, "".join(lines))
    print(f"{options.output}: {len(rows):,} sentences, half of them shuffled")


def _make_rows(options: OrderExamplesOptions) -> Iterator[dict[str, str]]:
    """Yield rows with both labels by turns, one for each different sentence."""
    inputs = find_inputs(options.input, None, options.sources.exclude)
    rng = random.Random(options.seed)
    known: set[tuple[str, ...]] = set()
    for document in read_documents(inputs, options.sources):
        for words in _sentences(document.text, options.min_words, options.max_words):
            shuffled = shuffle_words(words, rng)
            if words in known or shuffled == words:
                continue
            text, label = (shuffled, "shuffled") if len(known) % 2 else (words, "written")
            known.add(words)
            yield {"text": " ".join(text), "label": label}


def _sentences(text: str, least: int, most: int) -> Iterator[tuple[str, ...]]:
    """Yield the words of each plain sentence."""
    for sentence in _SENTENCE.split(text):
        words = tuple(sentence.split())
        if least <= len(words) <= most and _PLAIN.fullmatch(" ".join(words)):
            yield words


def shuffle_words(words: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """Return a sentence with its words between the first and the last in a random order."""
    inner = rng.sample(words[1:-1], len(words) - 2)
    return (words[0], *inner, words[-1])
