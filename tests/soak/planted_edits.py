"""Planted edits among natural text: what is found, against theory, and that nothing else goes.

    python -m tests.soak.planted_edits CORPUS.jsonl.zst ...

Cuts the corpus into pieces of about 2.7 kB, edits some of them at 1, 5, 10 and 20 % of the words,
removes near duplicates as a build does, and prints a table. Ends with 1 if a rate is not met.
"""

import argparse
import gzip
import io
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import zstandard

from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
from jaxgpt.corpus.dedup.near.lsh import band_keys, candidate_probability
from jaxgpt.corpus.dedup.near.minhash import sign
from jaxgpt.corpus.dedup.near.shingles import shingle
from jaxgpt.corpus.dedup.near.verify import read_removed
from tests.corpus.dedup.near.planted import (
    edit_words,
    jaccard,
    make_documents,
    run,
    shingle_sets,
    store,
)

RATES = (0.01, 0.05, 0.10, 0.20)
PIECE_CHARACTERS = 2700
NUM_PARTITIONS = 4


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a JSON lines file, as they are or packed with gzip or zstd."""
    with path.open("rb") as raw:
        if path.suffix == ".gz":
            stream = io.BufferedReader(gzip.GzipFile(fileobj=raw))
        elif path.suffix == ".zst":
            stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw)
        else:
            stream = raw
        for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
            yield json.loads(line)["text"]


def cut(text: str) -> Iterator[str]:
    """Pieces of about the same length, cut at spaces; a short rest is left out."""
    start = 0
    while len(text) - start >= PIECE_CHARACTERS:
        end = text.rfind(" ", start, start + PIECE_CHARACTERS) + 1 or start + PIECE_CHARACTERS
        yield text[start:end]
        start = end


def plant(files: Sequence[Path], num_natural: int, num_planted: int, seed: int) -> list[str]:
    """Natural pieces, then edits of the first of them, `num_planted` at each rate."""
    rng = random.Random(seed)
    texts = itertools.chain.from_iterable(map(read_texts, files))
    pieces = sorted({piece for text in texts for piece in cut(text)})
    if len(pieces) < max(num_natural, len(RATES) * num_planted):
        sys.exit(f"error: {len(pieces)} pieces in these files; give more files, or ask for fewer")
    natural = rng.sample(pieces, num_natural)
    vocabulary = sorted({word for piece in natural[:2000] for word in piece.split()})
    originals = iter(natural)
    edited = [
        edit_words(next(originals), rate, rng, vocabulary)
        for rate in RATES
        for _ in range(num_planted)
    ]
    return natural + edited


def find_removed(texts: list[str], config: NearDuplicatesConfig) -> dict[int, tuple[int, float]]:
    """{removed document: (the one kept for it, similarity as recorded)}, by a build's stages."""
    removed = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        partitions = store(folder / "documents", make_documents(texts), NUM_PARTITIONS)
        found = run(folder, partitions, config)
        print(json.dumps(found.counts), file=sys.stderr)
        for group in sorted((folder / "work" / "verify_group").iterdir()):
            for line in read_removed(group, 0, len(texts)).to_pylist():
                own, kept = (int(line[name].removeprefix("id-")) for name in ("id", "kept_id"))
                assert own not in removed
                removed[own] = kept, line["similarity"]
    return removed


def key_bands(texts: list[str], config: NearDuplicatesConfig) -> np.ndarray:
    """Band keys of each text."""
    return np.concatenate(
        [
            band_keys(
                sign(shingle(texts[start : start + 1000], config.ngram), config.num_permutations),
                config.num_bands,
                config.num_rows,
            )
            for start in range(0, len(texts), 1000)
        ]
    )


def check(texts: list[str], num_natural: int, num_planted: int, bands: str) -> list[str]:
    """Print the tables; return what is not as it must be."""
    config = NearDuplicatesConfig(bands=bands)
    sets, keys = shingle_sets(texts), key_bands(texts, config)
    removed = find_removed(texts, config)
    originals = np.arange(len(RATES) * num_planted)
    edits = originals + num_natural
    similarities = np.array([jaccard(sets[n], sets[n + num_natural]) for n in originals])
    is_candidate = (keys[originals] == keys[edits]).any(axis=1)
    is_found = np.array([n in removed or n + num_natural in removed for n in originals])
    faults = check_rates(config, similarities, is_candidate, is_found)
    if passed_over := int((is_candidate & (similarities >= 0.7) & ~is_found).sum()):
        faults.append(f"{passed_over} candidates of J >= 0.7 are both kept")
    exact = {own: jaccard(sets[own], sets[kept]) for own, (kept, _) in removed.items()}
    print(f"\n{len(removed)} of {len(texts)} removed; least similar: {min(exact.values()):.4f}")
    for own, (kept, similarity) in removed.items():
        if exact[own] < 0.7 or exact[own] != similarity or kept in removed:
            faults.append(f"{own} was removed for {kept}: {exact[own]}, recorded {similarity}")
    return faults


def check_rates(
    config: NearDuplicatesConfig,
    similarities: np.ndarray,
    is_candidate: np.ndarray,
    is_found: np.ndarray,
) -> list[str]:
    """The same for the recall; pairs come in the order of RATES, equally many of each."""
    faults = []
    print(f"| edits, {config.bands} | mean J | theory | candidates | pairs J >= 0.8 | found |")
    print("|---|---|---|---|---|---|")
    for rate, places in zip(RATES, np.split(np.arange(len(similarities)), len(RATES)), strict=True):
        similarity = similarities[places]
        expected = np.mean(candidate_probability(similarity, config.num_bands, config.num_rows))
        recall = is_candidate[places].mean()
        alike = similarity >= 0.8
        print(
            f"| {rate:.0%} | {similarity.mean():.3f} | {expected:.4f} | {recall:.4f} | "
            f"{alike.sum()} | {is_found[places][alike].sum()} |"
        )
        if abs(recall - expected) > 0.02:
            faults.append(f"{rate:.0%}: candidate recall {recall:.4f}, in theory {expected:.4f}")
        if rate == 0.01 and config.bands == "25x10" and recall < 0.98:
            faults.append(f"{rate:.0%}: candidate recall {recall:.4f} is below 0.98")
    alike = similarities >= 0.8
    print(f"\n{is_found[alike].mean():.4f} of {alike.sum()} pairs of J >= 0.8 are found")
    if config.bands == "25x10" and is_found[alike].mean() < 0.98:
        faults.append(f"{is_found[alike].mean():.4f} of the pairs of J >= 0.8 are found")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Planted edits: what is found, against theory.")
    parser.add_argument("files", nargs="+", type=Path, metavar="CORPUS")
    parser.add_argument("--num-natural", type=int, default=16_000)
    parser.add_argument("--num-planted", type=int, default=1000, help="at each rate")
    parser.add_argument("--bands", default="25x10")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = plant(options.files, options.num_natural, options.num_planted, options.seed)
    faults = check(texts, options.num_natural, options.num_planted, options.bands)
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
