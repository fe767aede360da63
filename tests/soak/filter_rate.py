"""Documents a second of the filters alone, on one core.

    python -m tests.soak.filter_rate --corpus FILES... [--documents 20000] [--rounds 5]

The documents are those of `compare_pipeline_with_datatrove`: natural pieces of about 2.7 kB and
edits of some. They are judged in batches as large as a build's, by Gopher's repetition and quality
rules, C4's and FineWeb's; what one rule set drops the next ones do not see. Processor time; the
median of the rounds, after one that does not count.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxgpt.corpus.cleaning.repair import RepairConfig, repair
from jaxgpt.corpus.filters.config import with_profile
from jaxgpt.corpus.text.batch import Step, TextBatch
from tests.soak.compare_pipeline_with_datatrove import NUM_PLANTED
from tests.soak.planted_edits import plant

BATCH_BYTES = 4 << 20
SECTIONS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")


def in_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, about as many together as in a build."""
    batch, num_bytes = [], 0
    for text in texts:
        batch.append(text)
        num_bytes += len(text.encode())
        if num_bytes > BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def judge(batches: Sequence[list[str]], steps: Mapping[str, Step]) -> tuple[Counter[str], int]:
    """Seconds of each rule set and of all, and how many documents are left."""
    seconds: Counter[str] = Counter()
    num_left = 0
    begin = time.process_time()
    for texts in batches:
        batch = TextBatch(texts=texts, urls=[""] * len(texts))
        for name, step in steps.items():
            start = time.process_time()
            judged = step(batch)
            seconds[name] += time.process_time() - start
            rows = [row for row, reason in enumerate(judged.reasons) if reason is None]
            if judged.texts is None:
                batch = batch.select(rows)
            else:
                left = [judged.texts[row] for row in rows]
                batch = TextBatch(texts=left, urls=[""] * len(left))
        num_left += len(batch.texts)
    seconds["all four"] = time.process_time() - begin
    return seconds, num_left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", nargs="+", type=Path, help="JSON lines to cut pieces from")
    parser.add_argument("--documents", type=int, default=20_000, help="natural ones, beside edits")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = plant(options.corpus, options.documents, NUM_PLANTED, 0)
    texts = [repair(text, RepairConfig()).text for text in found]
    batches = list(in_batches(texts))
    profile = with_profile("web-en")
    steps = {name: getattr(profile, name).build() for name in SECTIONS}
    judge(batches, steps)
    rounds = [judge(batches, steps) for _ in range(options.rounds)]
    print(f"{len(texts)} documents, {rounds[0][1]} are left")
    for name in (*SECTIONS, "all four"):
        used = [seconds[name] for seconds, _ in rounds]
        median = statistics.median(used)
        print(
            f"{name}: {median:.2f} s of processor ({min(used):.2f} to {max(used):.2f}), "
            f"{len(texts) / median:,.0f} documents/s"
        )


if __name__ == "__main__":
    main()
