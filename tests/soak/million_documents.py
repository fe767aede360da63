"""A build of a million documents on two cores: time and memory by stage, and what was found.

    python -m tests.soak.million_documents grow --folder SCALE --corpus FILES... [--documents N]
    python -m tests.soak.million_documents build --folder SCALE [--workers 2] [OPTIONS]

`grow` writes the input (`grown_corpus.py`) below SCALE/input; `build` runs tools/build_dataset.py
on it, with further OPTIONS, or goes on with a build that was interrupted; it watches the memory
of every process, counts the planted duplicates that were found, and writes SCALE/figures.json.
About 9 GB of disk for a million. Ends with 1 if a process had more than 4 GiB, or fewer than 98 %
of the planted duplicates were found.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from tests.soak.grown_corpus import grow
from tests.soak.process_memory import MemoryWatch, Sample

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_PROCESS_BYTES = 4 << 30
MIN_RECALL = 0.98
MIB = 1 << 20


def build(folder: Path, workers: int, more: Sequence[str]) -> dict[str, Any]:
    """Build the dataset of `folder/input`; return all figures."""
    output = folder / "dataset"
    command = [sys.executable, str(REPOSITORY / "tools" / "build_dataset.py"), *more]
    command += ["--input", str(folder / "input"), "--output", str(output)]
    command += ["--executor.workers", str(workers), "--json"]
    start = time.monotonic()
    with (folder / "build.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=REPOSITORY)
        watch = MemoryWatch(process.pid, StageWatch(output))
        watch.start()
        printed, _ = process.communicate()
        watch.stop()
    if process.returncode:
        sys.exit(f"error: the build ended with {process.returncode}; see {folder / 'build.log'}")
    return {
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(_processor_seconds(), 1),
        "stages": stages_of(watch.samples, process.pid),
        "largest_process_bytes": max(max(each.resident_bytes.values()) for each in watch.samples),
        "largest_total_bytes": max(each.total_bytes for each in watch.samples),
        "summary": json.loads(printed),
    }


class StageWatch:
    """Tells which stage of a build is going on, by where something is being written."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._stage = "start"

    def __call__(self) -> str:
        if (self._output / "train").exists():
            self._stage = "write_shards"
        else:
            active = next(self._output.glob(".work/*/.*.tmp"), None)
            self._stage = active.parent.name if active else self._stage
        return self._stage


def stages_of(samples: Sequence[Sample], root: int) -> list[dict[str, Any]]:
    """Seconds and memory of every stage, in order; what is flat does not grow within one."""
    stages: dict[str, list[Sample]] = {}
    used: dict[str, float] = {}
    for before, sample in itertools.pairwise(samples):
        if sample.resident_bytes:
            stages.setdefault(sample.stage, []).append(sample)
            more = max(sample.processor_seconds - before.processor_seconds, 0.0)
            used[sample.stage] = used.get(sample.stage, 0.0) + more
    rows = []
    for name, those in stages.items():
        half = len(those) // 2
        rows.append(
            {
                "stage": name,
                "seconds": round(those[-1].seconds - those[0].seconds, 1),
                "processor_seconds": round(used[name], 1),
                "main_mib": _largest(those, lambda process: process == root),
                "worker_mib": _largest(those, lambda process: process != root),
                "worker_mib_first_half": _largest(those[:half], lambda process: process != root),
                "private_mib": max(max(each.private_bytes.values()) for each in those) // MIB,
                "total_mib": max(each.total_bytes for each in those) // MIB,
            }
        )
    return rows


def _largest(samples: Sequence[Sample], which) -> int:
    return max(
        (
            size // MIB
            for sample in samples
            for process, size in sample.resident_bytes.items()
            if which(process)
        ),
        default=0,
    )


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def find_planted(folder: Path) -> dict[str, Any]:
    """How many planted duplicates were removed, or the piece in their favour.

    A pair whose piece was removed for a third document says nothing and is left out.
    """
    kept_for: dict[str, str] = {}
    kinds: dict[str, dict[str, int]] = {}
    with zstandard.open(folder / "dataset" / "removed.jsonl.zst", "rt", encoding="utf-8") as file:
        for line in file:
            removed = json.loads(line)
            kept_for[removed["id"]] = removed.get("kept_id", "")
            by_kind = kinds.setdefault(removed["reason"], {})
            kind = removed["id"].split()[1]
            by_kind[kind] = by_kind.get(kind, 0) + 1
    num_pairs = num_found = 0
    for path in sorted((folder / "input").iterdir()):
        with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                id = line[8:].split('"', 1)[0]
                if not id.endswith(" planted"):
                    continue
                natural = f"{id[: id.index('v')]}v00000 natural"
                if natural in kept_for and kept_for[natural] != id:
                    continue
                num_pairs += 1
                num_found += id in kept_for or kept_for.get(natural) == id
    return {"planted": num_pairs, "found": num_found, "removed": kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["grow", "build"])
    parser.add_argument("--corpus", nargs="+", type=Path, help="JSON lines to cut pieces from")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options, more = parser.parse_known_args()
    if options.verb == "grow":
        counts = grow(options.corpus, options.documents, options.seed, options.folder / "input")
        print(json.dumps(counts))
        return
    figures = build(options.folder, options.workers, more)
    figures["planted"] = find_planted(options.folder)
    (options.folder / "figures.json").write_text(json.dumps(figures, indent=1))
    print_figures(figures)
    recall = figures["planted"]["found"] / max(figures["planted"]["planted"], 1)
    if figures["largest_process_bytes"] > MAX_PROCESS_BYTES or recall < MIN_RECALL:
        sys.exit("error: memory or recall is not as it must be")


def print_figures(figures: dict[str, Any]) -> None:
    columns = list(figures["stages"][0])
    print("| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
    print("|---" * len(columns) + "|")
    for row in figures["stages"]:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |")
    for name in ("seconds", "processor_seconds", "largest_process_bytes", "largest_total_bytes"):
        print(f"{name}: {figures[name]:,}")
    print(json.dumps(figures["summary"]["counts"]))
    print(json.dumps(figures["planted"]))


if __name__ == "__main__":
    main()
