"""A whole build beside datatrove's pipeline: same documents, filters, MinHash settings and cores.

    python -m tests.soak.compare_pipeline_with_datatrove --corpus FILES... [--words default]
        [--documents 20000]

Both sides read JSON lines, apply Gopher's repetition and quality rules, C4's and FineWeb's, and
remove near duplicates found with word 5-grams, 25 bands of 10 rows and 32-bit hashes, in two
processes; whole commands are timed, by turns, and the ratio is of medians. What jaxgpt does
besides is not taken off: repair, exact duplicates, exact verification of near duplicates, tokens,
shards, a report. datatrove ends with the text of the documents that stay.

`--words default` gives datatrove the word tokenizer it takes for English (spaCy);
`--words whitespace` a split at white space, which is its fastest and how jaxgpt's filters count,
and the sentences that jaxgpt's C4 rule finds. datatrove needs `orjson` and `xxhash<4` installed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.corpus.cleaning.repair import RepairConfig, repair
from jaxgpt.corpus.filters import c4

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_PLANTED, NUM_FILES = 1000, 8
NGRAM, NUM_BANDS, NUM_ROWS = 5, 25, 10


def run_datatrove(folder: Path, output: Path, words: str, workers: int) -> None:
    """In a process of its own: the pipeline of datatrove's FineWeb example, without the web."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.typeshelper import Languages

    language = Languages.english if words == "default" else _white_space_words()
    config = MinhashConfig(
        n_grams=NGRAM,
        num_buckets=NUM_BANDS,
        hashes_per_bucket=NUM_ROWS,
        hash_config=HashConfig(precision=32, hash_fc="xxhash"),
    )
    names = ("filtered", "signatures", "buckets", "removed", "kept")
    filtered, signatures, buckets, removed, kept = (str(output / name) for name in names)
    stages = [
        (
            NUM_FILES,
            [
                JsonlReader(str(folder)),
                GopherRepetitionFilter(language=language),  # type: ignore[arg-type]
                GopherQualityFilter(language=language),  # type: ignore[arg-type]
                C4QualityFilter(filter_no_terminal_punct=False, language=language),  # type: ignore[arg-type]
                FineWebQualityFilter(language=language),  # type: ignore[arg-type]
                JsonlWriter(filtered, compression=None),
            ],
        ),
        (
            NUM_FILES,
            [
                JsonlReader(filtered),
                MinhashDedupSignature(signatures, config, language=language),  # type: ignore[arg-type]
            ],
        ),
        (NUM_BANDS, [MinhashDedupBuckets(signatures, buckets, config=config)]),
        (1, [MinhashDedupCluster(buckets, removed, config=config)]),
        (
            NUM_FILES,
            [
                JsonlReader(filtered),
                MinhashDedupFilter(removed),
                JsonlWriter(kept, compression=None),
            ],
        ),
    ]
    for number, (tasks, pipeline) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline,
            tasks=tasks,
            workers=workers,
            logging_dir=str(output / "logs" / str(number)),
            start_method="fork",
        ).run()
    counts = {name: _count_lines(output / name) for name in ("filtered", "kept")}
    print(json.dumps(counts))


def _white_space_words():
    """Words between white space and the sentences that our C4 rule finds, as a word tokenizer of
    datatrove's. (Its own `WhitespaceTokenizer` is spaCy's for any language.)"""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class WhiteSpace(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            ends = [match.end() for match in c4._SENTENCE_END.finditer(text)]
            return list(zip([0, *ends], [*ends, len(text)], strict=True))

        def sent_tokenize(self, text: str) -> list[str]:
            return [text[start:end] for start, end in self.span_tokenize(text)]

    return WhiteSpace()


def _count_lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


# The gates that the other side has not are off.
CONFIG = f"""
from jaxgpt.corpus.config import DatasetConfig
from jaxgpt.corpus.filters.config import FiltersConfig
from jaxgpt.corpus.dedup.near.config import NearDuplicatesConfig

config = DatasetConfig(
    filters=FiltersConfig(profile="web-en", url=None, language=None),
    near_duplicates=NearDuplicatesConfig(bands="{NUM_BANDS}x{NUM_ROWS}", ngram={NGRAM}),
)
"""


def run_jaxgpt(folder: Path, output: Path, tokenizer: Path, workers: int) -> list[str]:
    """The command of a build with the same settings."""
    command = [sys.executable, str(REPOSITORY / "tools" / "build_dataset.py"), "--json"]
    command += ["--input", str(folder), "--output", str(output / "dataset")]
    (output / "config.py").write_text(CONFIG)
    command += ["--config", str(output / "config.py"), "--tokenizer.path", str(tokenizer)]
    return [*command, "--executor.workers", str(workers)]


def write_documents(files: Sequence[Path], folder: Path, num_documents: int) -> int:
    """Write natural pieces and edits of some, a file at a time; return the bytes of text."""
    from tests.soak.planted_edits import plant

    folder.mkdir()
    # datatrove repairs nothing, and counts what is left of CRLF as repeated lines.
    found = plant(files, num_documents, NUM_PLANTED, 0)
    texts = [repair(text, RepairConfig()).text for text in found]
    for number in range(NUM_FILES):
        with (folder / f"part-{number}.jsonl").open("w", encoding="utf-8") as file:
            for place in range(number, len(texts), NUM_FILES):
                file.write(json.dumps({"id": f"id-{place}", "text": texts[place]}) + "\n")
    return sum(len(text.encode()) for text in texts)


def time_command(command: Sequence[str]) -> tuple[float, float, str]:
    """Seconds by the clock, seconds of processors, and what it printed last."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=REPOSITORY, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"error: {command[:4]} ended with {done.returncode}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, used, done.stdout.decode().splitlines()[-1]


def compare(folder: Path, options: argparse.Namespace) -> None:
    num_bytes = write_documents(options.corpus, folder / "input", options.documents)
    num_documents = options.documents + 4 * NUM_PLANTED
    print(
        f"{num_documents} documents, {num_bytes / 1e6:.1f} MB, datatrove's words: {options.words}"
    )
    tokenizer = folder / "tokenizer"
    command = [sys.executable, str(REPOSITORY / "tools" / "train_tokenizer.py")]
    time_command([*command, "--input", str(folder / "input"), "--output", str(tokenizer)])
    times: dict[str, list[tuple[float, float]]] = {"jaxgpt": [], "datatrove": []}
    for turn in range(options.rounds):
        for side in times:
            output = folder / f"{side}-{turn}"
            output.mkdir()
            if side == "jaxgpt":
                command = run_jaxgpt(folder / "input", output, tokenizer, options.workers)
            else:
                command = [sys.executable, __file__, "--words", options.words]
                command += ["--workers", str(options.workers)]
                command += ["--side", str(folder / "input"), str(output)]
            seconds, used, printed = time_command(command)
            times[side].append((seconds, used))
            counts = json.loads(printed)
            counts = counts.get("counts", counts)
            kept = counts["kept"]
            print(f"{side}: {seconds:.1f} s, {used:.1f} s of processors; kept {kept}", flush=True)
    for place, name in enumerate(("by the clock", "of processors")):
        ours, theirs = (
            statistics.median(each[place] for each in times[side])
            for side in ("jaxgpt", "datatrove")
        )
        print(f"seconds {name}: jaxgpt {ours:.1f}, datatrove {theirs:.1f}, {theirs / ours:.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", nargs="+", type=Path, help="JSON lines to cut pieces from")
    parser.add_argument("--words", choices=["default", "whitespace"], default="default")
    parser.add_argument("--documents", type=int, default=20_000, help="natural ones, beside edits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_datatrove(*options.side, options.words, options.workers)
        return
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), options)


if __name__ == "__main__":
    main()
