"""Signatures per second beside datatrove's, at equal shingles, permutations and bands.

    python -m tests.soak.compare_minhash_with_datatrove --python VENV/bin/python CORPUS ...

Each side runs in its own interpreter (datatrove may be installed in another environment), on one
core, the two by turns; what is timed is texts in memory to sorted band signatures on disk.
datatrove's default word tokenizer is a spaCy model; its fastest choice takes its place here, a
split of its own simplified text at spaces, so that the ratio is one of signatures alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_DOCUMENTS = 4000
NGRAM, NUM_BANDS, NUM_ROWS = 5, 25, 10


def time_jaxgpt(texts: list[str], folder: Path) -> float:
    from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig
    from jaxgpt.corpus.dedup.near.sign import sign_partition
    from tests.corpus.dedup.near.planted import make_documents, store

    config = NearDuplicatesConfig(bands=f"{NUM_BANDS}x{NUM_ROWS}", ngram=NGRAM)
    (partition,) = store(folder / "documents", make_documents(texts), 1)
    (folder / "signed").mkdir()
    start = time.perf_counter()
    sign_partition(folder / "signed", lambda amount: None, partition, config)
    return time.perf_counter() - start


def time_datatrove(texts: list[str], folder: Path) -> float:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.hashing import HashConfig

    class Spaces:
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

    minhash.load_word_tokenizer = lambda language: Spaces()
    step = minhash.MinhashDedupSignature(
        str(folder),
        minhash.MinhashConfig(
            n_grams=NGRAM,
            num_buckets=NUM_BANDS,
            hashes_per_bucket=NUM_ROWS,
            hash_config=HashConfig(precision=32, hash_fc="xxhash"),
        ),
    )
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    start = time.perf_counter()
    step.run(iter(documents))
    return time.perf_counter() - start


SIDES = {"jaxgpt": time_jaxgpt, "datatrove": time_datatrove}


def run_side(side: str, texts_file: Path) -> None:
    """In the side's own interpreter: print documents per second."""
    texts = json.loads(texts_file.read_text())
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as name:
        SIDES[side](texts[:50], Path(warm))
        seconds = SIDES[side](texts, Path(name))
    print(len(texts) / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Signatures per second, beside datatrove's.")
    parser.add_argument("files", nargs="*", type=Path, metavar="CORPUS")
    parser.add_argument("--python", default=sys.executable, help="one that can import datatrove")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.texts)
        return
    from tests.soak.planted_edits import plant

    texts = plant(options.files, NUM_DOCUMENTS, 0, 0)
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.json"
        file.write_text(json.dumps(texts))
        for _ in range(options.rounds):
            for side, python in (("jaxgpt", sys.executable), ("datatrove", options.python)):
                command = [python, __file__, "--side", side, "--texts", str(file)]
                output = subprocess.run(
                    command,
                    check=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
                )
                rates[side].append(float(output.stdout))
    medians = {side: statistics.median(each) for side, each in rates.items()}
    for side, each in rates.items():
        print(f"{side}: {medians[side]:.0f} documents/s (from {min(each):.0f} to {max(each):.0f})")
    print(f"ratio of medians: {medians['jaxgpt'] / medians['datatrove']:.1f}")


if __name__ == "__main__":
    main()
