"""A corpus of any size: pieces of a smaller one, and seeded edits of them.

Every piece of about 2.7 kB has versions whose words were replaced at random, most at a rate that
leaves nothing in common that matters, a known share at 1 %, and a known share is copied. The id of
a document says what it is: `p00012v003 edit`, `... planted`, `... copy`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zstandard

from tests.soak.planted_edits import cut, read_texts

# At this rate two versions of one piece have a Jaccard similarity of about 0.1.
EDIT_RATE = 0.30
PLANTED_RATE = 0.01
# Of the versions of a piece: every 20th is a near duplicate, every 100th a copy, of the piece.
PLANTED_EVERY, COPY_EVERY = 20, 100
# At least so many versions of a piece.
MIN_VERSIONS = 10
NUM_FILES = 64


def grow(files: Sequence[Path], num_documents: int, seed: int, folder: Path) -> dict[str, int]:
    """Write `num_documents` as JSON lines below `folder`; return how many there are of each kind.

    Versions of one piece lie in different files.
    """
    folder.mkdir(parents=True)
    pieces = sorted({piece for path in files for text in read_texts(path) for piece in cut(text)})
    rng = np.random.default_rng(seed)
    rng.shuffle(pieces)
    pieces = pieces[: -(-num_documents // MIN_VERSIONS)]
    words = np.array(sorted({word for piece in pieces[:2000] for word in piece.split()}), object)
    counts = {"natural": 0, "edit": 0, "planted": 0, "copy": 0}
    num_files = min(NUM_FILES, num_documents)
    outputs = [
        zstandard.open(folder / f"part-{number:03d}.jsonl.zst", "wb") for number in range(num_files)
    ]
    for number, (id, kind, text) in enumerate(_versions(pieces, num_documents, words, rng)):
        counts[kind] += 1
        line = json.dumps({"id": f"{id} {kind}", "text": text}, ensure_ascii=False)
        outputs[number % num_files].write(line.encode() + b"\n")
    for output in outputs:
        output.close()
    return counts


def _versions(
    pieces: Sequence[str], num_documents: int, words: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, str, str]]:
    """(id, kind, text) of so many documents, piece after piece."""
    made = 0
    for place, piece in enumerate(pieces):
        # What is left is divided evenly among the pieces that are left.
        num_versions = -(-(num_documents - made) // (len(pieces) - place))
        split = piece.split(" ")
        for version in range(num_versions):
            kind = _kind(version, made)
            if kind in ("natural", "copy"):
                text = piece
            else:
                rate = EDIT_RATE if kind == "edit" else PLANTED_RATE
                text = _replace_words(split, rate, words, rng)
            yield f"p{place:06d}v{version:05d}", kind, text
            made += 1


def _kind(version: int, number: int) -> str:
    if version == 0:
        return "natural"
    if number % COPY_EVERY == 1:
        return "copy"
    return "planted" if number % PLANTED_EVERY == 2 else "edit"


def _replace_words(
    split: Sequence[str], rate: float, words: np.ndarray, rng: np.random.Generator
) -> str:
    edited = list(split)
    places = np.flatnonzero(rng.random(len(edited)) < rate)
    for place, word in zip(places, rng.choice(words, len(places)), strict=True):
        edited[place] = word
    return " ".join(edited)
